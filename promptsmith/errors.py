"""Every error that promptsmith raises on purpose.

The tree (a test compares it with the classes)::

    PromptsmithError
    ├── BudgetError
    ├── ContractError
    ├── GateError
    │   └── Unproven
    ├── InputError
    ├── LockError
    │   ├── LockConflict
    │   └── RegistryError
    ├── ModelError
    │   ├── DraftError
    │   ├── PlanError
    │   ├── ProviderError
    │   │   ├── AuthenticationFailed
    │   │   ├── MalformedReply
    │   │   ├── ProviderDown
    │   │   │   └── TimedOut
    │   │   ├── RateLimited
    │   │   └── RequestRefused
    │   └── ReplyMissing
    ├── NotCompiled
    ├── SourceError
    ├── StoreError
    │   └── TamperedError
    ├── UnknownName
    └── WorkerError

``exit_code`` is what the command line ends with, ``retryable`` says whether the same call may succeed
later, ``counted`` whether somebody may have counted tokens for it all the same, ``hint`` is one line about what to do
next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, NamedTuple


class PromptsmithError(Exception):
    """Base of all errors; ``str(error)`` is written for a person."""

    exit_code: ClassVar[int] = 2
    retryable: bool = False
    counted: bool = False
    paid: tuple[Any, ...] = ()
    """Of a procedure that failed: the replies that it was given, each with its usage and cost."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way calls the class with its args, which the keyword-only ones are not among; a process
        # pool that can't unpickle an error breaks.
        return _restored, (type(self), self.args, self.__dict__)


def _restored(kind: type[PromptsmithError], args: tuple[Any, ...], state: dict[str, Any]) -> PromptsmithError:
    error = kind.__new__(kind, *args)
    error.__dict__.update(state)
    return error


class InputError(PromptsmithError):
    """A call was made with a missing, unknown or unusable input variable or argument."""


class NotCompiled(PromptsmithError):
    """The task exists but has no prompt that could answer."""


class UnknownName(PromptsmithError):
    """A task, alias, id prefix, model or command that does not exist, or is ambiguous."""


class ContractError(PromptsmithError):
    """A model's output broke the contract. ``reasons`` says how, ``text`` is what it answered."""

    exit_code = 1

    def __init__(self, message: str, *, reasons: Sequence[str], text: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.reasons = tuple(reasons)
        self.text = text


class GateError(PromptsmithError):
    """A promotion was refused."""

    exit_code = 1


class Unproven(GateError):
    """A promotion was refused because its evidence decides nothing."""

    exit_code = 3


class ModelError(PromptsmithError):
    """A model could not answer."""

    exit_code = 4
    counted = True


class ProviderError(ModelError):
    """A provider answered a call with an error, wrongly, or not at all.

    ``status`` is the HTTP status (``None`` when there was none), ``request_id`` and ``code`` are the provider's own words
    (a code is ``context_length_exceeded``, say), ``retry_after`` the seconds that it asked to wait. ``retryable`` and
    ``counted`` are decided per error where more is known than its class says.
    """

    usual_hint: ClassVar[str] = ""
    """What to do about an error of this class of which no more is known."""
    spent: bool = False
    """The call was repeated here as often as it may be: who repeats it once more repeats all of that."""

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        status: int | None = None,
        request_id: str = "",
        code: str = "",
        retryable: bool | None = None,
        retry_after: float | None = None,
        counted: bool | None = None,
        hint: str = "",
    ) -> None:
        super().__init__(message, hint=hint or self.usual_hint)
        self.provider = provider
        self.status = status
        self.request_id = request_id
        self.code = code
        self.retry_after = retry_after
        if retryable is not None:
            self.retryable = retryable
        if counted is not None:
            self.counted = counted


class AuthenticationFailed(ProviderError):
    """The provider does not accept the key, or not for this (401, 403)."""

    counted = False
    usual_hint = "is the key complete, current and of this provider?"


class MalformedReply(ProviderError):
    """What came back is no reply: not JSON, not the protocol's shape, or something that was not asked for."""

    usual_hint = "is the endpoint's base_url right, and does this model answer in plain text?"


class ProviderDown(ProviderError):
    """The provider could not be reached, failed (5xx, 529), was too slow, or broke off in the middle of a reply."""

    retryable = True
    usual_hint = "try again later, or name models that answer meanwhile: serve: {fallback: [...]} in the task"


class TimedOut(ProviderDown):
    """The provider was too slow, or there was no place for the call in time."""


class RateLimited(ProviderError):
    """The provider wants fewer calls (429), or none before a limit or quota is raised."""

    retryable = True
    counted = False
    usual_hint = "try again later, or lower concurrency, rpm or tpm below [limits]"


class RequestRefused(ProviderError):
    """The provider does not accept this request, and will not the next time (400, 402, 404, 413, 422 …)."""

    counted = False
    usual_hint = "what it says of the request is about the input, the task's parameters or the model's name"


class DraftError(ModelError):
    """The meta-model was paid and wrote no prompt that can be used."""


class PlanError(ModelError):
    """A conductor was paid and wrote no plan, decision or synthesis that can be used."""


class ReplyMissing(ModelError):
    """Only recorded replies were allowed and this one is not among them."""

    counted = False


class WorkerError(PromptsmithError):
    """A worker of a plan (a function, a fetch, a search) came to nothing. ``retryable`` says whether it may do better later."""

    exit_code = 4

    def __init__(self, message: str, *, retryable: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class BudgetError(PromptsmithError):
    """A limit in calls, tokens, dollars or time was reached."""

    exit_code = 5


class StoreError(PromptsmithError):
    """The cache folder cannot be used: not writable, full, or not ours."""


class TamperedError(StoreError):
    """Stored bytes do not match their digest; they are refused, never served."""


class LockError(PromptsmithError):
    """``promptsmith.lock`` is damaged, too new, or cannot be written."""


class LockConflict(LockError):
    """Somebody else moved the alias first (compare-and-swap failed)."""

    retryable = True


class RegistryError(LockError):
    """The server registry can't be reached, is of another version, or does not do what it is asked."""

    def __init__(self, message: str, *, retryable: bool = False, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.retryable = retryable


class Problem(NamedTuple):
    """One mistake in a file that a person wrote."""

    file: str
    line: int
    """Counted from 1; 0 when the file as a whole is meant."""
    what: str
    right: str = ""
    """What would be right; empty when ``what`` already says it."""

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        text = f"{self.what}, {self.right}" if self.right else self.what
        return f"{where}: {text}" if where else text


class SourceError(PromptsmithError):
    """Everything that is wrong with one source file, in line order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # Not a set: several mistakes in one line are told in the order in which they were found.
        self.problems = tuple(sorted(dict.fromkeys(problems), key=lambda p: (p.file, p.line)))
        super().__init__("\n".join(map(str, self.problems)))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name nearest to ``name`` as ``"did you mean 'x'?"``, or an empty string."""
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else ""
