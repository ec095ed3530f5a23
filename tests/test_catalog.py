"""Facts about models: they agree with the installed SDKs and price data, and promise nothing where nothing is known."""

from __future__ import annotations

import re
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

import pytest
from anthropic._data.deprecated_models import DEPRECATED_MODELS
from anthropic.types import model_param
from anthropic.types.output_config_param import OutputConfigParam
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st
from openai.types.shared import chat_model, reasoning_effort

from promptsmith.catalog.models import ANTHROPIC_EFFORTS, AS_OF, CURRENT, OPENAI_EFFORTS, RETIREMENTS, allowance, facts, near, retired

OPENAI_NAMES = set(get_args(chat_model.ChatModel))
ANTHROPIC_NAMES = set(get_args(get_args(model_param.ModelParam)[0]))


def openai_shutdowns() -> dict[str, str]:
    """Model to date, from the docstring of the SDK's list."""
    source = Path(chat_model.__file__).read_text(encoding="utf-8").rpartition('"""Deprecated values:')[2]
    found = {}
    for entry in re.split(r"^- ", source, flags=re.MULTILINE)[1:]:
        day = re.search(r"Announced\s+shutdown\s+date:\s+(\d{4}-\d{2}-\d{2})", entry)
        if day:
            found |= dict.fromkeys(re.findall(r'"([^"]+)"', entry), day[1])
    return found


def anthropic_shutdowns() -> dict[str, str]:
    return {
        name: datetime.strptime(re.sub(r"(\d)(st|nd|rd|th)", r"\1", day), "%B %d, %Y").date().isoformat()
        for name, day in DEPRECATED_MODELS.items()
    }


# The table is of the day AS_OF, and the installed SDK may be of any later one. So what the SDK has gained since is no fault
# here (a name that the table does not know is served with safe facts); what the table says must agree with the SDK.


def dated(provider: str) -> dict[str, str]:
    """The table's days of retirement, by the provider's own name."""
    return {name.removeprefix(f"{provider}/"): day for name, day in RETIREMENTS.items() if name.startswith(f"{provider}/")}


def test_retirements_are_those_of_the_openai_sdk() -> None:
    theirs, ours = openai_shutdowns(), dated("openai")
    assert len(ours) > 60
    assert {name: theirs.get(name) for name in ours} == ours
    assert {name: facts(f"openai/{name}").retires for name in ours} == ours


def test_retirements_are_those_of_the_anthropic_sdk() -> None:
    theirs, ours = anthropic_shutdowns(), dated("anthropic")
    assert ours["claude-sonnet-4-5"] == "2026-11-30"
    assert set(ours) - set(theirs) == {"claude-opus-4-0", "claude-sonnet-4-0"}
    assert {name: theirs.get(name, day) for name, day in ours.items()} == ours
    assert {name: facts(f"anthropic/{name}").retires for name in ours} == ours


def test_current_names_are_known_to_the_sdks_and_not_shut_down() -> None:
    theirs = {f"openai/{name}" for name in OPENAI_NAMES} | {f"anthropic/{name}" for name in ANTHROPIC_NAMES}
    assert set(CURRENT) <= theirs
    assert [name for name in CURRENT if retired(name, date.fromisoformat(AS_OF)) or "audio" in name] == []
    assert len(CURRENT) == len(set(CURRENT)) > 50


def test_every_current_model_is_known() -> None:
    assert [name for name in CURRENT if not facts(name).known] == []
    assert not facts("openai/gpt-5.1-mini").known


def test_efforts_are_the_sdks() -> None:
    assert set(OPENAI_EFFORTS) == set(get_args(get_args(reasoning_effort.ReasoningEffort)[0]))
    hint = str(OutputConfigParam.__annotations__["effort"])
    assert tuple(re.findall(r"'?\"?\b(low|medium|high|xhigh|max)\b", hint)) == ANTHROPIC_EFFORTS


def test_a_model_retires_on_the_day_and_not_before() -> None:
    assert not retired("openai/gpt-5", date(2026, 12, 10))
    assert retired("openai/gpt-5", date(2026, 12, 11))
    assert not retired("openai/gpt-6-luna", date(2100, 1, 1))


@pytest.mark.parametrize(
    ("model", "style", "minimum", "ttls", "read"),
    [
        ("openai/gpt-6.1-sol", "explicit", 1024, ("30m",), 0.05),
        ("openai/gpt-6-luna", "explicit", 1024, ("30m",), 0.1),
        ("openai/gpt-5.6-terra", "explicit", 1024, ("30m",), 0.1),
        ("openai/gpt-5.5-2026-04-23", "automatic", 1024, (), 0.1),
        ("openai/gpt-4o-mini", "automatic", 1024, (), 0.5),
        ("anthropic/claude-haiku-5-5", "breakpoints", 512, ("5m", "1h"), 0.1),
        ("anthropic/claude-sonnet-5-5", "breakpoints", 512, ("5m", "1h"), 0.05),
        ("anthropic/claude-fable-5-2", "breakpoints", 512, ("5m", "1h"), 0.025),
        ("anthropic/claude-sonnet-5", "breakpoints", 1024, ("5m", "1h"), 0.1),
        ("anthropic/claude-opus-4-7", "breakpoints", 2048, ("5m", "1h"), 0.1),
        ("anthropic/claude-haiku-4-5-20251001", "breakpoints", 4096, ("5m", "1h"), 0.1),
    ],
)
def test_caching_by_model(model: str, style: str, minimum: int, ttls: tuple[str, ...], read: float) -> None:
    known = facts(model)
    assert (known.known, known.cache, known.cache_minimum, known.ttls) == (True, style, minimum, ttls)
    assert {rate.read for rate in known.cache_rates} == {read}
    assert known.as_of == AS_OF


def test_write_prices() -> None:
    def writes(model: str) -> dict[str, float]:
        return {rate.ttl: rate.write for rate in facts(model).cache_rates}

    assert writes("anthropic/claude-opus-5-5") == {"5m": 1.25, "1h": 2.0}
    assert writes("openai/gpt-6-luna") == {"30m": 1.25}
    assert writes("openai/gpt-5.4") == {"": 1.0}


def price_ratios() -> dict[str, tuple[Decimal, Decimal | None]]:
    """Read and write price over input price, by full name, from the installed price data."""

    def base(price: Any) -> Any:
        return getattr(price, "base", price)

    found = {}
    for provider in providers:
        for model in provider.models if provider.id in {"openai", "anthropic"} else ():
            prices = model.prices[-1].prices if isinstance(model.prices, list) else model.prices
            put, read, write = base(prices.input_mtok), base(prices.cache_read_mtok), base(prices.cache_write_mtok)
            if put and read:
                found[f"{provider.id}/{model.id}"] = (read / put, write / put if write else None)
    return found


def test_the_table_promises_no_cheaper_cache_than_the_price_data() -> None:
    compared = 0
    for name, (read, write) in price_ratios().items():
        if name in CURRENT:
            compared += 1
            rate = facts(name).cache_rates[0]
            assert rate.read >= float(read) - 1e-9, name
            assert rate.write >= float(write or 1) - 1e-9, name
    assert compared >= 25


@pytest.mark.parametrize(
    ("model", "known", "style"),
    [
        ("anthropic/claude-opus-5-7", False, "breakpoints"),  # a version of its own, no claude-opus-5
        ("anthropic/claude-opus-5-20260301", True, "breakpoints"),
        ("anthropic/claude-sonnet-4-5@20250929", True, "breakpoints"),
        ("openai/gpt-7-sol", False, "explicit"),
        ("openai/gpt-6.2-sol", False, "explicit"),
        ("openai/gpt-6.2", False, "explicit"),
        ("openai/gpt-6-nova", True, "explicit"),
        ("openai/ft:gpt-4.1-mini:acme::x1", True, "automatic"),
        ("openai/whatever", False, "automatic"),
        ("openai/gpt-60", False, "explicit"),
        ("openai/gpt-4o-mini-next", True, "automatic"),
    ],
)
def test_names_outside_the_table(model: str, known: bool, style: str) -> None:
    assert (facts(model).known, facts(model).cache) == (known, style)


def test_an_unknown_claude_gets_what_is_safe_for_all() -> None:
    unknown = facts("anthropic/claude-next")
    every = [facts(name) for name in CURRENT if name.startswith("anthropic/")]
    assert unknown.cache_minimum == max(one.cache_minimum for one in every)
    assert unknown.token_factor == max(one.token_factor for one in every)
    assert unknown.cache_rates[0].read == max(one.cache_rates[0].read for one in every)
    assert not unknown.temperature


def test_another_endpoint_is_promised_nothing() -> None:
    foreign = facts("local/gpt-6-luna")
    assert (foreign.known, foreign.cache, foreign.structured, foreign.stream_usage, foreign.max_tokens_name) == (
        False,
        "none",
        False,
        False,
        "max_tokens",
    )


@given(st.text())
def test_facts_never_refuse_a_name(name: str) -> None:
    assert facts(name).model == name
    near(name)


def test_tokenizers_since_4_7() -> None:
    factors = {
        name: facts(f"anthropic/{name}").token_factor
        for name in ("claude-opus-4-7", "claude-opus-4-6", "claude-haiku-4-5", "claude-fable-5")
    }
    assert factors == {"claude-opus-4-7": 1.3, "claude-opus-4-6": 1.0, "claude-haiku-4-5": 1.0, "claude-fable-5": 1.3}


def test_room_for_reasoning_grows_with_effort() -> None:
    model = facts("openai/gpt-6-sol")
    rooms = [allowance(model, effort) for effort in OPENAI_EFFORTS]
    assert rooms == sorted(set(rooms))
    assert rooms[0] == 0
    assert allowance(model) == allowance(model, "medium") > 0
    assert allowance(facts("openai/gpt-4.1"), "high") == 0


def test_near_names_are_current_and_of_the_same_provider() -> None:
    assert near("openai/gpt-6-lunar")[0] == "openai/gpt-6-luna"
    assert near("anthropic/claude-haiku-55")[0] == "anthropic/claude-haiku-5-5"
    assert near("antropic/claude-haiku-5.5")[0] == "anthropic/claude-haiku-5-5"
    assert near("openai/zzzzzz") == ()
    assert all(not retired(name, date.fromisoformat(AS_OF)) for name in near("openai/gpt-3.5-turbo"))
