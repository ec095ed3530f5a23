"""What a client is told when it gets no answer: a status, a code and a sentence, whatever went wrong."""

from __future__ import annotations

from ..errors import (
    BudgetError,
    ContractError,
    GateError,
    InputError,
    LockConflict,
    LockError,
    ModelError,
    NotCompiled,
    PromptsmithError,
    ProviderDown,
    ProviderError,
    SourceError,
    StoreError,
    TimedOut,
    UnknownName,
)
from ..models.waiting import Late
from ..redact import redact


class Refusal(Exception):
    """An answer that is an error. ``retry_after`` in seconds; ``code`` for programs, ``message`` for people."""

    def __init__(self, status: int, message: str, *, code: str, hint: str = "", retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.hint, self.retry_after = status, message, code, hint, retry_after
        self.request_id = ""
        """The provider's id of the call that failed."""
        self.provider_code = ""
        """The provider's own word for what is wrong: clients know it, and ours stands in the figures."""
        self.allow = ""
        """The methods that the path takes, where the request's is none of them (RFC 9110, 15.5.6)."""
        self.upstream = False
        """Whether it is a provider's refusal and not ours."""
        self.repeatable = status in {408, 429} or status >= 500
        """Whether the same request may do better; clients that repeat by themselves are told."""

    @property
    def told_code(self) -> str:
        """The word for programs that a client is told."""
        return self.provider_code or self.code

    @property
    def text(self) -> str:
        return f"{self.message}; {self.hint}" if self.hint else self.message


def wrong_method(allow: str) -> Refusal:
    """``allow``: what the path takes."""
    found = Refusal(405, f"this path takes {allow}", code="method_not_allowed")
    found.allow = allow
    return found


_OURS: tuple[tuple[type[PromptsmithError], int, str], ...] = (
    (InputError, 400, "invalid_request"),
    (UnknownName, 404, "model_not_found"),
    (NotCompiled, 404, "model_not_found"),
    (ContractError, 502, "contract_broken"),
    (BudgetError, 429, "budget_exceeded"),
    (GateError, 409, "not_proven"),
    (SourceError, 503, "source_damaged"),
    (LockConflict, 409, "moved_meanwhile"),
    (LockError, 503, "registry_unavailable"),
    (StoreError, 503, "store_unavailable"),
    (ModelError, 502, "model_failed"),
)


def refusal(error: BaseException) -> Refusal:
    """What to tell of ``error``. One that is none of ours is told as a fault of the service, without its words."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, ProviderError):
        return _of_provider(error)
    if isinstance(error, Late):
        return Refusal(504, "the model did not answer in time", code="model_timeout")
    for kind, status, code in _OURS:
        if isinstance(error, kind):
            found = Refusal(status, redact(error.message), code=code, hint=redact(error.hint))
            # The model was paid for its answer, and would most likely be paid for the same again.
            found.repeatable = found.repeatable and not isinstance(error, ContractError)
            return found
    return Refusal(500, "the service failed over this request, which its log has more about", code="internal_error")


def _of_provider(error: ProviderError) -> Refusal:
    """The provider's own status goes through; without one it could not be reached, was too slow (504), or sent no answer."""
    late = isinstance(error, TimedOut)
    status = error.status if error.status is not None and 400 <= error.status < 600 else 504 if late else 502
    code = "model_timeout" if late else "provider_unavailable" if isinstance(error, ProviderDown) else "provider_refused"
    notes = "; ".join([error.message, *getattr(error, "__notes__", ())])
    found = Refusal(status, redact(notes), code=code, hint=redact(error.hint), retry_after=error.retry_after)
    found.request_id, found.upstream = error.request_id, True
    found.provider_code = redact(error.code)
    found.repeatable = error.retryable and not error.spent  # or a client's three attempts would be three times ours
    return found
