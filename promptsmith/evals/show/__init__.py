"""Reports in every form that is text: pure functions from a report. The HTML ones stand in ``pages``."""
