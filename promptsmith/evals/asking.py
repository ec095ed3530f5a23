"""Where an eval's replies come from: a record, the unfinished journal, the reply cache, the model; in this order."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping

from ..budget import Budget
from ..chat import Chunk, Reply, Request, Usage, total_cost
from ..errors import ReplyMissing
from ..models import Model
from ..models.directory import Directory
from ..models.wallet import opened, paid_from
from ..models.wrappers import Budgeted, Cached, Journaled, Metered, kept_reply
from ..runtime.core import answered
from ..store import Journal, Store
from .attempt import Answered
from .record import Recorded


class Asker:
    """Asks models for one eval, and keeps what was used for a record.

    With ``fresh`` nothing comes from the reply cache; with ``calls`` off nothing from a model: then what neither
    record nor cache hold raises :class:`ReplyMissing`.
    """

    def __init__(
        self,
        directory: Directory,
        store: Store,
        budget: Budget,
        *,
        task: str,
        record: Mapping[str, Recorded] | None = None,
        fresh: bool = False,
        calls: bool = True,
    ) -> None:
        self._directory, self._store, self.budget = directory, store, budget
        self._task, self._record, self._fresh, self._calls = task, record or {}, fresh, calls
        self._made: dict[tuple[str, str, str], Model] = {}
        self._wallet: Budget | None = None
        self._found: dict[int, str] = {}
        self.journal: Journal | None = None
        """Where paid replies are written; set before the first call."""
        self.used: dict[str, Recorded] = {}
        """Every final reply of this eval, by the key of its first request."""
        self.spent: float | None = 0.0
        """US dollars paid now, judges included; ``None``: a price is unknown."""

    async def ask(self, request: Request, *, prompt: str = "", stage: str = "eval", key: str = "") -> Answered:
        """The final reply to ``request`` (asked again once with a doubled limit when it stopped at its length)."""
        key = key or request.key()
        kept = self._record.get(key)
        if kept is not None:
            self.used[key] = kept
            return Answered(reply=kept.as_reply(), usage=kept.usage, cost=kept.cost, latency=kept.latency, source="record")
        replies = await answered(self._model(request.model, prompt, stage), request)
        last, sources = replies[-1], [self._found.pop(id(reply), "model") for reply in replies]
        done = Answered(
            reply=last,
            usage=sum((reply.usage for reply in replies), Usage()),
            cost=total_cost(reply.cost for reply in replies),
            latency=sum(reply.latency for reply in replies),
            source=sources[-1],
            calls=len(replies),
        )
        paid = total_cost(reply.cost for reply, source in zip(replies, sources, strict=True) if source == "model")
        self.spent = None if self.spent is None or paid is None else self.spent + paid
        self.used[key] = Recorded.of(key, done.reply, done.usage, done.cost, done.latency)
        return done

    async def judge(self, request: Request) -> Reply:
        """What a judge answers; the same sources, cache and budget as for the answers it judges."""
        return (await self.ask(request, stage="judge")).reply

    def check(self, model: str) -> None:
        """Nothing. Raises :class:`UnknownName` for a model that does not exist."""
        if self._calls:
            self._directory.check(model)

    def known(self, key: str) -> bool:
        """Whether the reply under ``key`` is here already, so that no model would be asked."""
        if key in self._record or (self.journal is not None and key in self.journal.entries):
            return True
        return not self._fresh and kept_reply(self._store, key) is not None

    def warms(self, request: Request) -> bool:
        """Whether one call should go first, so that the others find the provider's prompt cache written.

        Raises what would stop every call to the model, such as a missing key.
        """
        if not self._calls:
            return False
        self._directory.model(request.model)
        return self._directory.warms(request.model, request)

    def _model(self, name: str, prompt: str, stage: str) -> Model:
        made = self._made.get((name, prompt, stage))
        if made is None:
            made = self._made[name, prompt, stage] = self._chain(name, prompt, stage)
        return made

    def _chain(self, name: str, prompt: str, stage: str) -> Model:
        # What runs in this process needs no key and no network: nothing to be recorded.
        called = self._calls or name.startswith("builtin/")
        model: Model = _Called(name, lambda: self._paid(name, prompt, stage)) if called else _Silent(name)
        return model if self._fresh else Cached(model, self._store, Request.key, self._note)

    def _paid(self, name: str, prompt: str, stage: str) -> Model:
        assert self.journal is not None
        bare, rates = self._directory.model(name), self._directory.rates.find(name)
        if not self.budget.limited:
            return Journaled(Metered(bare, self._store, task=self._task, prompt=prompt, stage=stage), self.journal, Request.key, self._note)
        paying = paid_from(self._open_wallet(), bare, rates, self.journal)
        metered = Metered(paying, self._store, task=self._task, prompt=prompt, stage=stage)
        # Inside the cache: what another run has paid for costs this one nothing.
        return Budgeted(Journaled(metered, self.journal, Request.key, self._note), self.budget, rates)

    def _open_wallet(self) -> Budget:
        if self._wallet is None:
            assert self.journal is not None
            self._wallet = opened(self.budget.limits, self.journal)
        return self._wallet

    def _note(self, reply: Reply, source: str) -> None:
        self._found[id(reply)] = source


class _Called:
    """A model that is made when it is first called: an eval whose replies are all here needs no key and loads no client."""

    def __init__(self, name: str, make: Callable[[], Model]) -> None:
        self.name = name
        self._make = make
        self._made: Model | None = None

    async def reply(self, request: Request) -> Reply:
        if self._made is None:
            self._made = self._make()
        return await self._made.reply(request)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))


class _Silent:
    """Stands where a model would be, in an eval that may make no call."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def reply(self, request: Request) -> Reply:  # noqa: ARG002 - the protocol's name
        raise ReplyMissing(
            f"a call to {self.name} would be needed: neither the record nor the cache has this reply",
            hint="record again with a key: promptsmith eval … --record FILE",
        )

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        yield Chunk("", await self.reply(request))
