"""What tokens cost: dollars per million, by model and by how long the input is.

Unknown is unknown (``None``), never 0. The list prices are those of the ``genai-prices`` package; it is imported only
when a price is looked up, and what was found is kept by ``models/rates.py``.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class Tokens(Protocol):
    """How many tokens a call took; ``input`` is the total, what was cached and written is contained in it."""

    @property
    def input(self) -> int: ...
    @property
    def output(self) -> int: ...
    @property
    def cached(self) -> int: ...
    @property
    def written(self) -> int: ...


class Rate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """US dollars per million tokens, for inputs of more than ``above`` tokens; a cliff: the rate holds for all tokens."""

    input: float
    output: float
    cached: float | None = None
    """Reading from the provider's prompt cache; ``None``: the input price."""
    written: float | None = None
    """Writing to it for the shortest time; ``None``: the input price."""
    written_long: float | None = None
    """Writing to it for the longer time, where there is one."""
    above: int = 0


class Rates(msgspec.Struct, frozen=True):
    """The rates of one model, the one for the longest inputs last."""

    rates: tuple[Rate, ...]

    @property
    def free(self) -> bool:
        """Whether a call costs nothing, however many tokens it takes."""
        return self.worst(1, 1) == 0.0

    def rate(self, input_tokens: int) -> Rate:
        """The rate for an input of so many tokens."""
        found = self.rates[0]
        for rate in self.rates:
            if input_tokens > rate.above:
                found = rate
        return found

    def cost(self, usage: Tokens, *, long: bool = False) -> float:
        """US dollars of one call; ``long`` says that its cache writes were for the longer time."""
        rate = self.rate(usage.input)
        cached = rate.input if rate.cached is None else rate.cached
        written = rate.written_long if long and rate.written_long is not None else rate.written
        fresh = max(0, usage.input - usage.cached - usage.written)
        total = (
            fresh * rate.input
            + usage.cached * cached
            + usage.written * (rate.input if written is None else written)
            + usage.output * rate.output
        )
        return total / 1e6

    def worst(self, input_tokens: int, output_tokens: int) -> float:
        """The most that a call of so many tokens can cost, whatever is cached or written."""
        dearest = max(self.rates, key=lambda rate: rate.input + rate.output)
        inputs = max(price for price in (dearest.input, dearest.written, dearest.written_long) if price is not None)
        return (input_tokens * inputs + output_tokens * dearest.output) / 1e6


# See chat.py.
msgspec.json.Decoder(Rates)


def list_rates(model: str) -> Rates | None:
    """The list prices of ``provider/model``; ``None`` when they are not known. Imports genai-prices (about 0.2 s)."""
    import genai_prices
    from genai_prices import Usage as Priced

    provider, _, name = model.partition("/")
    try:
        price = genai_prices.calc_price(Priced(input_tokens=1, output_tokens=1), name, provider_id=provider).model_price
    except (LookupError, ValueError):
        return None
    return _rates(price)


def _rates(price: object) -> Rates | None:
    fields = {
        "input": "input_mtok",
        "output": "output_mtok",
        "cached": "cache_read_mtok",
        "written": "cache_write_mtok",
        "written_long": "cache_write_1h_mtok",
    }
    found = {ours: value for ours, theirs in fields.items() if (value := getattr(price, theirs, None)) is not None}
    if "input" not in found or "output" not in found:
        return None
    starts = sorted({tier.start for value in found.values() for tier in getattr(value, "tiers", ())})
    tiers = [{"above": start, **{name: _at(value, start) for name, value in found.items()}} for start in (0, *starts)]
    return Rates(msgspec.convert(tiers, tuple[Rate, ...]))


def _at(value: object, start: int) -> float:
    """A price that may have tiers, for inputs of more than ``start`` tokens."""
    tiers = getattr(value, "tiers", None)
    if tiers is None:
        return float(value)  # type: ignore[arg-type]  # a Decimal
    current = value.base  # type: ignore[attr-defined]
    for tier in tiers:
        if tier.start <= start:
            current = tier.price
    return float(current)
