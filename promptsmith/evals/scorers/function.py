"""A scorer that is a function of the user's own.

It is called in a thread, by the names of its parameters, so it may block, call the sync face, or hang: then the case
is unscored and the run goes on. (The default executor is not used: its threads are waited for when Python ends.)
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import math
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from ...errors import InputError, did_you_mean
from .common import Inner
from .protocol import Answer, Grade, Unscored

PARAMETERS = ("output", "expected", "inputs", "value", "case", "latency", "cost", "model")
"""What a function may ask for: the fields of :class:`Answer` that it names among its parameters."""
_MOST_HANGING = 4
_KEYS = {"score", "passed", "why"}
_RIGHT = "return true or false, a number from 0 to 1, or {score, passed, why}"


class Loaded(NamedTuple):
    """A function, the file that it is in, and the file's sha256 (empty for what has no source file)."""

    call: Callable[..., Any]
    file: str
    digest: str


def load(name: str, folder: Path) -> Loaded:
    """The scorer called ``module:function`` or ``file.py:function`` (beside the task). Raises :class:`InputError`."""
    loaded = load_function(name, folder, of="scorer", beside="the task")
    _check_parameters(loaded.call, name)
    return loaded


def load_function(name: str, folder: Path, *, of: str, beside: str) -> Loaded:
    """The function called ``module:function`` or ``file.py:function`` (in ``folder``), which is whoever's ``of`` says.

    Raises :class:`InputError`, which tells a person that ``folder`` is ``beside`` something.
    """
    place, _, function = name.rpartition(":")
    module, file, digest = _from_file(folder / place, of, beside) if place.endswith(".py") else _from_module(place, of, beside)
    found = getattr(module, function, None)
    if not callable(found):
        known = [each for each, value in vars(module).items() if inspect.isfunction(value)]
        raise InputError(
            f"{place} has no function {function!r}", hint=did_you_mean(function, known) or f"it has {', '.join(known) or 'none'}"
        )
    return Loaded(found, file, digest)


def _from_file(path: Path, of: str, beside: str) -> tuple[ModuleType, str, str]:
    # Compiled from the very bytes that are hashed: no stale .pyc, and none written beside the task.
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"the {of}'s file {path.name!r} can't be read: {error.strerror}", hint=f"it is looked for beside {beside}"
        ) from None
    digest = _digest(data)
    module = ModuleType(f"promptsmith_{of}_{digest[:16]}")
    module.__file__ = str(path)
    # Dataclasses and pickle look their module up.
    sys.modules[module.__name__] = module
    try:
        exec(compile(data, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's own code, named in the task
    except BaseException as error:
        sys.modules.pop(module.__name__, None)
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InputError(f"the {of}'s file {path.name!r} can't be loaded: {told(error, str(path))}") from error
    return module, str(path), digest


def _from_module(name: str, of: str, beside: str) -> tuple[ModuleType, str, str]:
    try:
        module = importlib.import_module(name)
    except BaseException as error:  # importing somebody else's module can fail in any way, SystemExit among them
        if isinstance(error, KeyboardInterrupt):
            raise
        raise InputError(
            f"the {of}'s module {name!r} can't be imported: {type(error).__name__}: {error}",
            hint=f"for a file beside {beside} write {name.rpartition('.')[2]}.py:function",
        ) from error
    file = getattr(module, "__file__", None) or ""
    source = Path(file)
    return module, file, _digest(source.read_bytes()) if file and source.is_file() else ""


def _digest(data: bytes) -> str:
    # git may check the same file out with other line ends.
    return hashlib.sha256(data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")).hexdigest()


def _check_parameters(call: Callable[..., Any], name: str) -> None:
    for parameter in _signature(call, name).parameters.values():
        optional = parameter.default is not parameter.empty or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        if parameter.name not in PARAMETERS and not optional:
            raise InputError(
                f"the scorer {name} takes {parameter.name!r}, which is nothing that it can be given",
                hint=did_you_mean(parameter.name, PARAMETERS) or f"name its parameters among {', '.join(PARAMETERS)}",
            )


def _signature(call: Callable[..., Any], name: str) -> inspect.Signature:
    try:
        return inspect.signature(call)
    except (TypeError, ValueError):
        raise InputError(f"the scorer {name} does not tell its parameters", hint="write a function of your own round it") from None


def python(loaded: Loaded, name: str, *, timeout: float, threshold: float | None) -> Inner:
    """Grades by what the function returns: true or false, a number from 0 to 1, or ``{score, passed, why}``.

    A number passes from ``threshold`` (1 when there is none).
    """
    mark = 1.0 if threshold is None else threshold
    called = _Called(loaded, timeout)

    async def grade(answer: Answer) -> Grade:
        return _grade(await called(answer), name, mark)

    return grade


class _Called:
    """Calls the function in a thread of its own, and stops trying while too many calls hang."""

    def __init__(self, loaded: Loaded, timeout: float) -> None:
        self._loaded, self._timeout = loaded, timeout
        self._kinds = {name: parameter.kind for name, parameter in inspect.signature(loaded.call).parameters.items()}
        self._takes_all = any(kind is inspect.Parameter.VAR_KEYWORD for kind in self._kinds.values())
        self._hanging: set[threading.Thread] = set()

    async def __call__(self, answer: Answer) -> Any:
        self._hanging = {thread for thread in self._hanging if thread.is_alive()}
        if len(self._hanging) >= _MOST_HANGING:
            raise Unscored(f"not called: {len(self._hanging)} earlier calls of the function still hang")
        thread, done = begun(partial(self._called, answer), self._failed, name="promptsmith-scorer")
        try:
            return await asyncio.wait_for(done, self._timeout)
        except TimeoutError:
            self._hanging.add(thread)
            raise Unscored(f"the function did not return within {self._timeout:g} s") from None

    def _failed(self, error: BaseException) -> Unscored:
        return Unscored(f"the function raised {told(error, self._loaded.file)}")

    def _called(self, answer: Answer) -> Any:
        given = {name: getattr(answer, name) for name in PARAMETERS if name in self._kinds or self._takes_all}
        first = [given.pop(name) for name, kind in self._kinds.items() if kind is inspect.Parameter.POSITIONAL_ONLY and name in given]
        result = self._loaded.call(*first, **given)
        return asyncio.run(result) if inspect.iscoroutine(result) else result


def begun(
    call: Callable[[], Any], failed: Callable[[BaseException], Exception], *, name: str
) -> tuple[threading.Thread, asyncio.Future[Any]]:
    """``call`` in a daemon thread of its own, and what it will come to; what it raises becomes what ``failed`` says."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()
    thread = threading.Thread(target=_run, args=(call, failed, loop, done), daemon=True, name=name)
    thread.start()
    return thread, done


def _run(
    call: Callable[[], Any], failed: Callable[[BaseException], Exception], loop: asyncio.AbstractEventLoop, done: asyncio.Future[Any]
) -> None:
    result: Any = None
    problem: Exception | None = None
    try:
        result = call()
    except BaseException as error:  # also SystemExit: a function may not end the run
        problem = failed(error)
    try:
        loop.call_soon_threadsafe(_settle, done, result, problem)
    except RuntimeError:
        pass  # the loop is closed: nobody waits for this any more


def _settle(done: asyncio.Future[Any], result: Any, problem: Exception | None) -> None:
    if done.done():
        return
    if problem is None:
        done.set_result(result)
    else:
        done.set_exception(problem)


def told(error: BaseException, file: str) -> str:
    """An exception in words, with the last line of the user's file that it passed through."""
    if isinstance(error, SyntaxError) and error.filename == file:
        return f"{type(error).__name__}: {error.msg} ({Path(file).name}:{error.lineno})"
    frames = traceback.extract_tb(error.__traceback__)
    place = next((frame for frame in reversed(frames) if frame.filename == file), frames[-1] if frames else None)
    line = f" ({Path(place.filename).name}:{place.lineno})" if place else ""
    try:
        said = str(error)
    except Exception:  # an error of somebody else's may not even tell itself
        said = ""
    return f"{type(error).__name__}: {said}{line}" if said else f"{type(error).__name__}{line}"


def _grade(result: Any, name: str, mark: float) -> Grade:
    if isinstance(result, Mapping):
        return _from_mapping(result, name, mark)
    if isinstance(result, bool):
        return Grade(float(result), result, f"{name} returned {str(result).lower()}")
    score = _score(result)
    return Grade(score, score >= mark, f"{name} returned {result!r}")


def _from_mapping(result: Mapping[Any, Any], name: str, mark: float) -> Grade:
    odd = [key for key in result if key not in _KEYS]
    passed, why = result.get("passed"), result.get("why", "")
    if odd or not ("score" in result or "passed" in result):
        raise Unscored(f"the function returned a mapping with {', '.join(map(repr, odd)) or 'neither score nor passed'}; {_RIGHT}")
    if not isinstance(passed, bool | None) or ("passed" in result and passed is None):
        raise Unscored(f"the function returned passed: {passed!r}; {_RIGHT}")
    if not isinstance(why, str):
        raise Unscored(f"the function returned a why that is no text but {type(why).__name__}; {_RIGHT}")
    score = _score(result["score"]) if "score" in result else float(bool(passed))
    decided = score >= mark if passed is None else passed
    return Grade(score, decided, why or f"{name} returned {dict(result)!r}")


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise Unscored(f"the function returned {_short(value)}; {_RIGHT}")
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise Unscored(f"the function returned {value!r}, which is no score; {_RIGHT}")
    return float(value)


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:59] + '…'} ({type(value).__name__})" if value is not None else "nothing (None)"
