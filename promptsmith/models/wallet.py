"""The wallet: a procedure's limits over what is really spent, attempt by attempt, over all the times that it is run.

A budget (:class:`~.wrappers.Budgeted` around the journal) counts what is used, replayed or not, so that a run decides
as the one before it did. The wallet stands around each attempt that goes out: a timed-out or cut one is settled at its
worst and journaled, since nobody knows what the provider counted.
"""

from __future__ import annotations

from ..budget import Budget, Limits, Reservation
from ..catalog.prices import Rates
from ..chat import Request
from ..redact import redact
from ..store import Journal, Outcome
from .protocol import Model
from .wrappers import Budgeted

_HINT = "attempts that failed count too, where the provider may have counted them; run it again with a higher limit to go on"


def opened(limits: Limits, journal: Journal) -> Budget:
    """A wallet with what the journal says was spent already."""
    wallet = Budget(limits, hint=_HINT)
    for outcome in journal.entries.values():
        if outcome.reply is not None and not outcome.found:
            used = outcome.reply.usage
            wallet.count(tokens=used.input + used.output, usd=outcome.cost or 0.0)
    for attempt in journal.lost:
        wallet.count(tokens=attempt.tokens, usd=attempt.cost or 0.0)
    return wallet


def paid_from(wallet: Budget, model: Model, rates: Rates | None, journal: Journal) -> Model:
    """``model`` with the wallet around each of its attempts, inside whatever limits and repeats them."""

    def lost(request: Request, held: Reservation, error: BaseException | None) -> None:
        words = redact(str(error)) or type(error).__name__
        journal.append(Outcome(key=request.key(), error=words, cost=held.usd, tokens=held.tokens))

    def wrap(inner: Model) -> Model:
        return Budgeted(inner, wallet, rates, lost)

    around = getattr(model, "around", None)
    paying: Model = wrap(model) if around is None else around(wrap)
    return paying
