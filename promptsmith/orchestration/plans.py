"""``Plan`` as the package offers it: a plan that can be read from YAML."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Self

from ..config import Project, find_project
from . import values
from .reading import Known, load_plan, plan_yaml, read_plan
from .workers import Workers


class Plan(values.Plan, frozen=True, kw_only=True, omit_defaults=True):
    """A validated plan: see :class:`promptsmith.orchestration.values.Plan`."""

    @classmethod
    def from_yaml(cls, source: str | PathLike[str], *, project: Project | str | PathLike[str] | None = None) -> Self:
        """The plan in a YAML file, or in a text with more than one line.

        Tasks and workers that it names are those of ``project``. Raises :class:`SourceError` with everything that is wrong.
        """
        found = project if isinstance(project, Project) else find_project(project)
        known = Known(workers=Workers(found).names, tasks=frozenset(found.task_names()))
        if isinstance(source, str) and "\n" in source:
            plan = read_plan(source, form="yaml", author="person", known=known)
        else:
            plan = load_plan(Path(source), known)
        return cls(**{name: getattr(plan, name) for name in plan.__struct_fields__})

    def to_yaml(self) -> str:
        """The plan as YAML, which :meth:`from_yaml` reads again. Raises :class:`InputError` for what YAML can't say."""
        return plan_yaml(self)
