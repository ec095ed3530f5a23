"""``python -m promptsmith``."""

from .cli import main

main()
