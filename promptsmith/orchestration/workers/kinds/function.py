"""``function``: a Python function of the user's own, called in a thread with data and nothing else.

It may block, print, raise or call the sync face: the run goes on. One that hangs keeps its thread, which ends with Python.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ....errors import InputError, PromptsmithError, WorkerError, did_you_mean
from ....evals.scorers.function import Loaded, begun, load_function, told
from ..values import Ask, Kind, Place, Worker, WorkerCall, WorkerResult, WorkerSettings

ENTRY_POINTS = "promptsmith.workers"
"""The entry point group of other packages: a name, and the function that ``function = NAME`` means."""

RESERVED = ("instructions", "problem", "arguments", "context")
"""Parameters that are given what the step says and sees; all others are taken from its arguments and its context by name."""


class FunctionSettings(WorkerSettings, frozen=True, kw_only=True):
    """``[workers.NAME] kind = "function"``."""

    function: str
    """``module:function``, ``file.py:function`` (relative to the project), or the name of an entry point."""


def _make(settings: FunctionSettings, place: Place) -> Worker:
    loaded = _loaded(settings.function, place)
    parameters = _parameters(loaded, place.name)

    async def work(call: WorkerCall, _ask: Ask) -> WorkerResult:
        given = _bind(parameters, call)
        _, done = begun(partial(_called, loaded.call, given, place.name), partial(_failed, loaded, place.name), name="promptsmith-worker")
        result: WorkerResult = await done
        return result

    return Worker(work, loaded.digest)


KIND = Kind(FunctionSettings, _make)


# --- finding it -------------------------------------------------------------------------------------------


def _loaded(name: str, place: Place) -> Loaded:
    if ":" in name:
        loaded = load_function(_beside(name, place.project.root), place.project.root, of="worker", beside="the project's settings")
        if not inspect.isclass(loaded.call):
            return loaded
        raise InputError(f"{name} is a class, and the worker {place.name} needs a function")
    found = entry_points(group=ENTRY_POINTS, name=name)
    if not found:
        known = sorted({entry.name for entry in entry_points(group=ENTRY_POINTS)})
        hint = did_you_mean(name, known) or "write module:function, or install a package that has it"
        raise InputError(f"no installed package has a worker function {name!r}", hint=hint)
    return _of_entry(next(iter(found)))


def _beside(name: str, root: Path) -> str:
    """``module:function`` of a file beside the settings, which no import path need lead to; any other name is itself."""
    module, _, function = name.rpartition(":")
    file = f"{module}.py"
    return f"{file}:{function}" if module.isidentifier() and (root / file).is_file() and find_spec(module) is None else name


def _of_entry(entry: EntryPoint) -> Loaded:
    return load_function(entry.value, Path(), of="worker", beside="its package")


# --- what it is given -------------------------------------------------------------------------------------


def _parameters(loaded: Loaded, name: str) -> Mapping[str, inspect.Parameter]:
    try:
        parameters = inspect.signature(loaded.call).parameters
    except (TypeError, ValueError):
        raise InputError(f"the function of the worker {name} does not tell its parameters", hint="write one of your own round it") from None
    wrong = next((each for each in parameters.values() if each.kind is each.POSITIONAL_ONLY and each.default is each.empty), None)
    if wrong is not None:
        raise InputError(
            f"the function of the worker {name} takes {wrong.name!r} by place, and workers are called by name", hint="drop the '/'"
        )
    return parameters


def _bind(parameters: Mapping[str, inspect.Parameter], call: WorkerCall) -> dict[str, Any]:
    """What the function is called with. Constants go before the context, both before what the step says of itself."""
    named = {name: each for name, each in parameters.items() if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}
    takes_all = any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    _refuse_unknown(call, named, takes_all)
    context = {name.replace("-", "_"): value for name, value in call.context.items()}
    whole = {"instructions": call.instructions, "problem": call.problem, "arguments": dict(call.arguments), "context": dict(call.context)}
    offered = {**whole, **context, **call.arguments}
    given = {name: value for name, value in offered.items() if name in named or (takes_all and name not in RESERVED)}
    missing = [name for name, each in named.items() if name not in given and each.default is each.empty]
    spare = [value for name, value in context.items() if name not in given]
    if len(missing) == len(spare) == 1:
        return {**given, missing[0]: spare[0]}
    if missing:
        here = ", ".join(name for name in offered if name not in whole) or "nothing"
        raise InputError(
            f"the worker {call.worker} takes {missing[0]!r}, which the step does not give it",
            hint=f"the step gives {here}; name it in the step's context or arguments, or give the parameter a default",
        )
    return given


def _refuse_unknown(call: WorkerCall, named: Mapping[str, object], takes_all: bool) -> None:
    if takes_all or "arguments" in named:
        return
    for name in call.arguments:
        if name not in named:
            hint = did_you_mean(name, named) or f"it takes {', '.join(named) or 'nothing'}"
            raise InputError(f"the worker {call.worker} takes no argument {name!r}", hint=hint)


# --- calling it -------------------------------------------------------------------------------------------


def _called(call: Callable[..., Any], given: Mapping[str, Any], name: str) -> WorkerResult:
    result = call(**given)
    return _result(asyncio.run(result) if inspect.iscoroutine(result) else result, name)


def _failed(loaded: Loaded, name: str, error: BaseException) -> Exception:
    if isinstance(error, PromptsmithError):
        return error
    return WorkerError(f"the worker {name} raised {told(error, loaded.file)}")


def _result(value: Any, name: str) -> WorkerResult:
    if isinstance(value, str):
        return WorkerResult(text=str(value), value=str(value))
    if value is None:
        raise WorkerError(f"the worker {name} returned nothing (None)", hint="let it return a text or a JSON value")
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        hint = "a worker returns a text, or what JSON can hold"
        raise WorkerError(f"the worker {name} returned {type(value).__name__}, which is no data: {error}", hint=hint) from None
    return WorkerResult(text=text, value=json.loads(text))
