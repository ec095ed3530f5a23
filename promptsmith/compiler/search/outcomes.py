"""What a call of a search comes to, from the reply cache or from a model: paid from the wallet, journaled, in the ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from ...budget import NO_LIMITS, Limits
from ...chat import Chunk, Reply, Request
from ...errors import AuthenticationFailed, ModelError, ProviderDown, ProviderError, RateLimited
from ...models import Model
from ...models.directory import Directory
from ...models.directory import Stage as Way
from ...models.wallet import opened, paid_from
from ...models.wrappers import Metered, kept_reply, unusable
from ...redact import redact
from ...store import Journal, Outcome, Store

LEDGER_STAGE = "compile"
"""Whatever the stage of the search: what a compile took is added up over all of them."""
_HERE = "builtin/"
_NOBODY = frozenset({402, 404})
"""Status of a refusal that every other call would meet too: nothing left to pay with, no such model."""


class Outcomes:
    """Makes outcomes, each written to ``journal`` before it is handed on. ``limits`` are over what is really spent.

    Before a call goes out for the first time that is noted in the journal too: one that is noted and has no outcome was
    under way when its process was killed.
    """

    def __init__(self, directory: Directory, store: Store, journal: Journal, limits: Limits, *, task: str, fresh: bool = False) -> None:
        """With ``fresh`` nothing comes from the reply cache."""
        self._fresh = fresh
        self._directory, self._store, self._journal, self._task = directory, store, journal, task
        self._wallet = None if limits == NO_LIMITS else opened(limits, journal)
        self._models: dict[tuple[str, Way], Model] = {}
        self._unsent: dict[int, str] = {}
        """Keys of calls that did not go out yet, by the identity of their requests."""

    async def get(self, key: str, request: Request, way: Way) -> Outcome:
        """The outcome of a call that the journal does not hold.

        Raises what is none: :class:`BudgetError` when the wallet is empty, the error of a provider that failed in spite of
        all repetitions, and what would stop every call.
        """
        made: list[Outcome] = []

        async def make() -> Reply:
            reply = await self._paid(key, request, way)
            made.append(self._journaled(Outcome(key=key, reply=reply, cost=reply.cost, attempts=reply.attempts)))
            self._store.put_reply(key, reply)
            return reply

        try:
            reply = await self._store.once(key, lambda: None if self._fresh else kept_reply(self._store, key), make)
        except ModelError as error:
            if not _final(error):
                raise
            return self._journaled(self._failure(key, request, error))
        if made:
            return made[0]
        return self._journaled(Outcome(key=key, reply=reply, cost=reply.cost, attempts=reply.attempts, found=True))

    async def _paid(self, key: str, request: Request, way: Way) -> Reply:
        model = self._model(request.model, way)
        self._unsent[id(request)] = key
        try:
            return _whole(await model.reply(request))
        except Exception as error:
            if id(request) not in self._unsent and not _final(error):
                self._journal.sent(key, over=True)
            raise
        finally:
            self._unsent.pop(id(request), None)

    def _model(self, name: str, way: Way) -> Model:
        made = self._models.get((name, way))
        if made is None:
            made = self._models[name, way] = self._chain(name, way)
        return made

    def _chain(self, name: str, way: Way) -> Model:
        model, rates = self._directory.model(name, way), self._directory.rates.find(name)
        around = getattr(model, "around", None)
        if around is not None and not name.startswith(_HERE):  # what runs in this process can't be paid twice
            model = around(lambda inner: _Marked(inner, self._goes_out))
        if self._wallet is not None:
            model = paid_from(self._wallet, model, rates, self._journal)
        return Metered(model, self._store, task=self._task, prompt="", stage=LEDGER_STAGE)

    def _goes_out(self, request: Request) -> None:
        key = self._unsent.pop(id(request), None)
        if key is not None:
            self._journal.sent(key)

    def _journaled(self, outcome: Outcome) -> Outcome:
        self._journal.append(outcome)
        return outcome

    def _failure(self, key: str, request: Request, error: ModelError) -> Outcome:
        words = redact(error.message) or type(error).__name__
        cost: float | None = 0.0
        if error.counted:
            rates, most = self._directory.rates.find(request.model), request.parameters.get("max_tokens")
            cost = rates.worst(request.size(), most) if rates is not None and isinstance(most, int) else None
        return Outcome(key=key, error=words, cost=cost, counted=error.counted)


class _Marked:
    """Tells ``goes_out`` of each attempt just before it is made."""

    def __init__(self, model: Model, goes_out: Callable[[Request], None]) -> None:
        self._model, self._goes_out = model, goes_out

    @property
    def name(self) -> str:
        return self._model.name

    async def reply(self, request: Request) -> Reply:
        self._goes_out(request)
        return await self._model.reply(request)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


def _whole(reply: Reply) -> Reply:
    if reply.stop == "aborted":
        raise unusable(reply)
    return reply


def passing(error: ModelError) -> bool:
    """Whether the provider failed in a way that may pass."""
    return error.retryable or isinstance(error, ProviderDown | RateLimited)


def _hopeless(error: ModelError) -> bool:
    """Whether every other call would fail so too."""
    return isinstance(error, AuthenticationFailed) or (isinstance(error, ProviderError) and error.status in _NOBODY)


def _final(error: Exception) -> bool:
    """Whether a call that failed so would fail so every time, and others need not: that is an outcome."""
    return isinstance(error, ModelError) and not passing(error) and not _hopeless(error)
