"""Plans that are shipped: each a YAML file of this folder, run by its name."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent


def patterns() -> tuple[str, ...]:
    """The names of all shipped plans, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def find_pattern(name: str) -> Path | None:
    """The file of a shipped plan; ``None`` when there is none of that name."""
    return FOLDER / f"{name}.yaml" if name in patterns() else None
