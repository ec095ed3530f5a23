"""Hard limits in calls, tokens, dollars and seconds: reserved in the worst case before a call, settled after it."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from .catalog.prices import Rates
from .errors import BudgetError, InputError


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a procedure may spend; ``None`` is no limit."""

    usd: float | None = None
    calls: int | None = None
    tokens: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not value >= 0:  # nan is not smaller than 0 either, and would limit nothing
                raise InputError(f"a limit of {value} {name} can't be kept", hint="give a number from 0 up, or no limit")

    def tightened(self, other: Limits) -> Limits:
        """The smaller of both, limit by limit."""
        pairs = {name: [v for v in (getattr(self, name), getattr(other, name)) if v is not None] for name in self.__struct_fields__}
        return Limits(**{name: min(values) for name, values in pairs.items() if values})


# See chat.py.
msgspec.json.Decoder(Limits)


NO_LIMITS = Limits()


class Reservation(msgspec.Struct, frozen=True):
    """What one call may cost at most."""

    tokens: int
    usd: float


class Budget:
    """Counts what is spent and what is reserved; never lets their sum over a limit.

    One input token for each UTF-8 byte is more than any tokenizer makes of a text, so the reservation is a bound.
    """

    def __init__(self, limits: Limits, *, hint: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._hint = hint
        self._clock = clock
        self._started = clock()
        self.calls = 0
        self.tokens = 0
        self.usd = 0.0
        self._reserved_tokens = 0
        self._reserved_usd = 0.0

    @property
    def limited(self) -> bool:
        """Whether there is any limit to keep."""
        return self.limits != NO_LIMITS

    def left(self) -> Limits:
        """What is neither spent nor reserved, time left out."""
        limits = self.limits
        return Limits(
            usd=None if limits.usd is None else max(0.0, limits.usd - self.usd - self._reserved_usd),
            calls=None if limits.calls is None else max(0, limits.calls - self.calls),
            tokens=None if limits.tokens is None else max(0, limits.tokens - self.tokens - self._reserved_tokens),
        )

    def reserve(self, *, model: str, input_bytes: int, max_output: int, rates: Rates | None) -> Reservation:
        """Room for one call. Raises :class:`BudgetError` when it might go over, :class:`InputError` for an unknown price."""
        self.check_price(model, rates)
        wanted = Reservation(input_bytes + max_output, rates.worst(input_bytes, max_output) if rates else 0.0)
        self._refuse_over(model, wanted)
        self.calls += 1
        self._reserved_tokens += wanted.tokens
        self._reserved_usd += wanted.usd
        return wanted

    def settle(self, held: Reservation, *, tokens: int | None, usd: float | None) -> None:
        """Puts what a call took in the place of its reservation; ``None``: all of it (a cut or timed-out call)."""
        self._reserved_tokens -= held.tokens
        self._reserved_usd -= held.usd
        self.tokens += held.tokens if tokens is None else tokens
        self.usd += held.usd if usd is None else usd

    def release(self, held: Reservation) -> None:
        """As if the call had never been made: nobody counted anything for it."""
        self.calls -= 1
        self._reserved_tokens -= held.tokens
        self._reserved_usd -= held.usd

    def count(self, *, tokens: int, usd: float, calls: int = 1) -> None:
        """Calls that were paid for elsewhere, or earlier."""
        self.calls += calls
        self.tokens += tokens
        self.usd += usd

    def check_price(self, model: str, rates: Rates | None) -> None:
        """Raises :class:`InputError` when a limit in dollars can't be kept, since nobody knows what ``model`` costs."""
        if self.limits.usd is not None and rates is None:
            raise InputError(
                f"the price of {model} is not known, so a limit in dollars can't be kept",
                hint=f"give it: [prices.'{model}'] input = …, output = … (US dollars per million tokens), or limit calls or tokens instead",
            )

    def check_time(self) -> None:
        """Raises :class:`BudgetError` when the time is up."""
        if self.limits.seconds is not None and self._clock() - self._started >= self.limits.seconds:
            raise BudgetError(f"the time limit of {self.limits.seconds:g} seconds is reached")

    def _refuse_over(self, model: str, wanted: Reservation) -> None:
        self.check_time()
        limits = self.limits
        if limits.calls is not None and self.calls + 1 > limits.calls:
            raise BudgetError(f"the limit of {limits.calls} calls is reached", hint=self._hint)
        tokens = self.tokens + self._reserved_tokens + wanted.tokens
        if limits.tokens is not None and tokens > limits.tokens:
            raise BudgetError(
                f"a call to {model} might bring the tokens to {tokens}, over the limit of {limits.tokens}",
                hint=self._hint or "a call is reserved at its worst case: a token for each byte of input, and the most output it may give",
            )
        usd = self.usd + self._reserved_usd + wanted.usd
        if limits.usd is not None and usd > limits.usd:
            raise BudgetError(f"a call to {model} might bring the cost to ${usd:.4f}, over the limit of ${limits.usd:g}", hint=self._hint)
