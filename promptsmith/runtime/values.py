"""What a call through the runtime takes and gives."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import msgspec

from ..canonical import Scalar
from ..chat import Stop, Turn, Usage
from ..errors import InputError, PromptsmithError
from ..prompt import Prompt

if TYPE_CHECKING:
    from ..task import Task

Policy = Literal["error", "pass", "repair", "escalate"]
POLICIES: tuple[Policy, ...] = ("error", "pass", "repair", "escalate")
Source = Literal["model", "cache", "journal"]
Given = str | Mapping[str, str]


class RunOptions(TypedDict, total=False):
    """Options of one call; what is left out is decided by the runtime, then the prompt, then the project."""

    model: str
    """Another production model; the result is then ``ungated``."""
    parameters: Mapping[str, Scalar]
    """Parameters on top of the prompt's own; the result is then ``ungated``."""
    history: Sequence[Turn]
    """Earlier turns of a chat."""
    appended: str
    """More instructions, behind the prompt's own; the result is then ``ungated``."""
    sample: int
    """Which of several independent answers (default 0)."""
    cache: bool
    """Whether replies may come from and go to the reply cache."""
    on_contract_break: Policy
    fallback: Sequence[str]
    """Models to ask, in turn, when the first can't answer: it failed, refused, or its provider's filter stopped it."""
    escalate: str
    """The stronger model that ``on_contract_break="escalate"`` asks."""
    timeout: float
    """Seconds for the whole call, repairs and fallbacks included."""
    canary_key: str
    """Who calls: while a canary runs beside the alias, the arm of this key answers; without a key the alias itself."""
    unfinished: bool
    """Whether an answer that stopped early (length, refusal, filter) is given as it is, with its ``stop``; else that is an error."""
    compile_missing: bool
    """Compile a task that has no prompt yet (once, however many callers)."""
    into: type
    """A pydantic, msgspec or dataclass type that ``value`` is turned into."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An answer, and where it came from.

    ``value`` is the label as written, the parsed JSON, or the text without surrounding blanks (or an instance of
    ``into``); ``text`` is the raw reply. ``reasons`` is empty unless the policy let a broken answer pass.
    """

    text: str
    value: Any
    task: str
    prompt: str
    """The id of the prompt that answered."""
    chosen: str
    """Which ref was served and why."""
    origin: str
    """Where the prompt came from: ``lock``, ``registry``, ``cache``, ``memory``, ``last good``, ``shipped lock``."""
    model: str
    """The model that answered; another than the one asked first when a fallback or a stronger model did."""
    source: Source
    stop: Stop = "end"
    usage: Usage = Usage()
    cost: float | None = None
    """US dollars paid by this call, its repairs included; ``None`` when a price is unknown."""
    latency: float = 0.0
    """Seconds from call to result."""
    waited: float = 0.0
    """Seconds of these spent waiting for models: for a place, for an equal call under way, for all their answers."""
    age: float | None = 0.0
    """How old the prompt's source is: 0 for what stands in the lock or the cache now; for a last good copy the seconds
    since it was last seen in a good lock, ``None`` when nobody knows."""
    calls: int = 1
    """How many replies it took: more than one after a repair, an escalation, a longer limit or a refusal; 0 for one that was kept."""
    attempts: int = 1
    """How often a model was asked for these: more often where one was asked again after an error."""
    request_id: str = ""
    """The provider's name for the call that answered; empty for an answer that was kept, and for a model without one."""
    ungated: bool = False
    """Whether model or parameters differ from the ones that the prompt was compiled for."""
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """Where the answer does not match an inferred contract; no break."""

    @property
    def ok(self) -> bool:
        """Whether the answer satisfies the contract."""
        return not self.reasons


class Failure(msgspec.Struct, frozen=True):
    """One input of ``run_many`` that got no answer."""

    error: PromptsmithError
    ok: bool = False


class StreamChunk(msgspec.Struct, frozen=True):
    """A piece of a streamed answer; the last one has no text and carries the result."""

    text: str
    result: Result | None = None


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What hooks are told: a call has ended."""

    task: str
    prompt: str
    key: str
    started: float
    """Unix time in seconds."""
    latency: float
    result: Result | None = None
    error: PromptsmithError | None = None


Hook = Callable[[Event], None]
Progress = Callable[[int, int], None]
"""Told how many inputs are done, and of how many."""


class Compiler(Protocol):
    """What the runtime needs of a compiler; bound in from above."""

    def find(self, task: Task) -> Prompt | None:
        """The prompt that an earlier compile made of exactly this task, or ``None``."""

    async def compile(self, task: Task) -> Prompt:
        """The prompt of ``task``, compiled now if need be."""


_learning = threading.RLock()
"""Held while msgspec may be reading the fields of a caller's type; see chat.py."""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_learning.acquire, after_in_parent=_learning.release, after_in_child=_learning.release)


def turned_into(kind: type, value: Any) -> Any:
    """``value`` as an instance of ``kind``: a pydantic model, a msgspec struct, a dataclass, an enum, a plain type.

    Raises :class:`InputError` when the value does not fit.
    """
    validate = getattr(kind, "model_validate", None)
    try:
        if validate is not None:
            return validate(value)
        with _learning:
            return msgspec.convert(value, kind)
    except (msgspec.ValidationError, ValueError, TypeError) as error:
        raise InputError(f"the answer does not fit {getattr(kind, '__name__', kind)}: {error}") from error
