"""The service: compiled prompts behind the APIs that everyone already calls."""
