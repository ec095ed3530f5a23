"""Promoted prompts in PostgreSQL, for replicas on many machines. Nothing is loaded here, and psycopg only when it is called."""
