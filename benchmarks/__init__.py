"""How fast it is, beside peers in the same run. Nothing here passes or fails; ``python -m benchmarks`` prints the table."""
