"""Import and export: other tools' prompt files become tasks, and compiled prompts become other tools' files."""

from .table import EXPORTS, IMPORTS, detect, exported, imported
from .taskfile import Written, write_task
from .values import Case, Foreign, Here, Notes, Outgoing

__all__ = [
    "EXPORTS",
    "IMPORTS",
    "Case",
    "Foreign",
    "Here",
    "Notes",
    "Outgoing",
    "Written",
    "detect",
    "exported",
    "imported",
    "write_task",
]
