"""The JSON Schema of a task file, for editors; generated from the tables that read it."""

from __future__ import annotations

import json
from typing import Any

from .reader import TASK

URL = "https://promptsmith.dev/schemas/task.json"


def task_schema() -> dict[str, Any]:
    """JSON Schema (2020-12) of a task file."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": URL,
        "title": "promptsmith task",
        **TASK.schema(),
    }


def schema_text() -> str:
    """The schema as it is committed and shipped."""
    return json.dumps(task_schema(), indent=2, ensure_ascii=False) + "\n"
