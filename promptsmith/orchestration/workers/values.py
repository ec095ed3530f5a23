"""What a worker is given, what it comes to, and what a kind of worker is."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, NamedTuple

import msgspec

from ...chat import Reply, Request, Usage
from ...config import Project
from ...errors import InputError
from ...models.directory import Directory

Ask = Callable[[Request], Awaitable[Reply]]
"""Asks a model: through a run's journal, cache and budget, or the model alone."""

Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
Bytes = Annotated[int, msgspec.Meta(ge=1, le=2**30)]
MAX_BYTES = 2**20
"""Of a result, unless a worker's settings say otherwise: more is no text to show to a model."""


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every kind's section of the settings has; a kind adds its own keys."""

    kind: str
    timeout: Seconds = 60.0
    """Seconds of one call, all of it."""
    max_bytes: Bytes = MAX_BYTES
    """Bytes (UTF-8) of a result at most; a longer one is an error, never cut."""


class WorkerCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call of a worker: everything is data, and nothing of it is ever executed."""

    worker: str
    instructions: str = ""
    problem: str = ""
    """The original problem, empty unless the step sees it."""
    arguments: Mapping[str, Any] = {}
    """Constants that stand in the plan."""
    context: Mapping[str, Any] = {}
    """Inputs and results that the step may see, by name: texts, or any JSON value."""


class WorkerResult(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker came to: ``text`` is what an expert is shown, ``value`` what a function is given."""

    text: str
    value: Any = None
    """A JSON value; the text itself where there is no other."""
    sources: tuple[str, ...] = ()
    """URLs that it comes from."""
    model: str = ""
    """Who answered, where a model was asked."""
    usage: Usage = Usage()
    cost: float | None = 0.0
    """US dollars; ``None``: a price is unknown."""


def as_text(value: Any) -> str:
    """A text as it is, any other value as JSON text. Raises :class:`InputError` for what is no JSON value."""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{type(value).__name__} is no JSON value: {error}") from None


class Place(NamedTuple):
    """Where a worker works."""

    name: str
    project: Project
    directory: Directory


class Worker(NamedTuple):
    """A worker that is ready to be called."""

    work: Callable[[WorkerCall, Ask], Awaitable[WorkerResult]]
    """Does one call. Raises :class:`~promptsmith.errors.InputError` for what it can't be given, and
    :class:`~promptsmith.errors.WorkerError` or :class:`~promptsmith.errors.ModelError` when it comes to nothing."""
    code: str = ""
    """What decides its results besides its settings: the digest of a function's file."""


class Kind(NamedTuple):
    """A kind of worker; its file in ``kinds/`` is named as it and calls it ``KIND``."""

    settings: type[WorkerSettings]
    make: Callable[[Any, Place], Worker]
    """From its settings. Raises :class:`~promptsmith.errors.PromptsmithError` for what can't work."""
