"""Reads plans: text -> nodes (by its form) -> fields (by the tables) -> a checked ``Plan``."""

from __future__ import annotations

from pathlib import Path

from ...errors import Problem, SourceError
from ...task.document import Node, Problems, check_size, parse_document, read_bytes, shown
from ..values import Author, Plan
from .checks import Checked
from .json_form import json_node
from .known import BOUNDS, MOST_ANSWER, Form, Known, Rules, rules
from .tables import ID, in_our_names, plan_table
from .xml_form import xml_node


def read_plan(text: str, *, form: Form, file: str = "", author: Author, known: Known) -> Plan:
    """The plan in a text: YAML, or a model's reply with the plan in JSON or XML somewhere in it.

    ``file`` is what errors call it; paths of schema files are relative to its folder. Raises :class:`SourceError` with
    everything that is wrong.
    """
    problems = Problems(file or "the plan")
    check_size(len(text), problems.file, BOUNDS)
    if author == "model" and len(text) > MOST_ANSWER:
        raise SourceError([Problem(problems.file, 0, f"the answer has {len(text):,} characters", f"write at most {MOST_ANSWER:,}")])
    root = _node(text, form, problems)
    return _plan(root, problems, rules(author, form, known, Path(file).parent), known, blanks=form != "yaml")


def load_plan(path: Path, known: Known) -> Plan:
    """The plan in a YAML file that a person wrote, called like the file if it does not say. Raises :class:`SourceError`."""
    problems = Problems(shown(path))
    root = parse_document(read_bytes(path, BOUNDS), problems.file, problems, BOUNDS)
    name = path.stem if ID.fullmatch(path.stem) else ""
    return _plan(root, problems, rules("person", "yaml", known, path.absolute().parent), known, name=name)


def _node(text: str, form: Form, problems: Problems) -> Node:
    if form == "json":
        return json_node(text, problems.file, problems)
    if form == "xml":
        return xml_node(text, problems.file, problems)
    return parse_document(text, problems.file, problems, BOUNDS)


def _plan(root: Node, problems: Problems, held: Rules, known: Known, *, name: str = "", blanks: bool = False) -> Plan:
    ours = in_our_names(root, problems, blanks=blanks)
    values = plan_table(held).parts(ours.root, problems)
    return Checked(values, ours.root, short=ours.short, rules=held, known=known, problems=problems).plan(name)
