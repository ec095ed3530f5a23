"""One request from its first byte to its last: routes, faults, checks, the answer function, the cache, the record."""

from __future__ import annotations

import asyncio
import bisect
import inspect
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec
from aiohttp import web

from . import chat, messages, responses, sse
from .cache import PrefixCache
from .catalog import ModelFacts, models
from .check import parse
from .faults import ANSWER_KINDS, BEFORE, Fault, Schedule
from .gate import Gate, check_key
from .line import Line
from .records import Record, Records
from .refused import Dialect, Refused, unknown_model
from .settings import Settings
from .values import Answer, Ask, Heard, Outcome, Said, Usage

FAULT_HEADER = "x-fault"
"""A request header that asks for a fault, in the form of :meth:`Fault.parse`; in a model's name it stands behind ``!``."""

_ROUTE = re.compile(r"(?:/[^/]+)*?/v1/(chat/completions|responses|messages/count_tokens|messages|models(?:/[^/]+)?)")
_MOST_PIECES = 1000
_LISTED = 1_700_000_000
_ANY_JSON: Mapping[str, Any] = {
    "anyOf": [{"type": "object"}, {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}]
}


class _Codec(NamedTuple):
    hear: Callable[[dict[str, Any], ModelFacts, Mapping[str, str]], Heard]
    render: Callable[[Outcome], dict[str, Any]]
    events: Callable[[Outcome], list[bytes]]
    error_events: Callable[[Refused, Dialect, str], list[bytes]]


_CODECS: Mapping[str, _Codec] = {
    "chat/completions": _Codec(chat.hear, chat.render, chat.events, chat.error_events),
    "responses": _Codec(responses.hear, responses.render, responses.events, responses.error_events),
    "messages": _Codec(messages.hear, messages.render, messages.events, messages.error_events),
}


class Service:
    """The handler of all connections. Everything in here runs in the provider's event loop."""

    def __init__(self, answer: Answer, settings: Settings, faults: Schedule, records: Records, cache: PrefixCache) -> None:
        self.answer = answer
        self.settings = settings
        self.stopping = asyncio.Event()
        self.problems: list[Exception] = []
        """What the answer function raised."""
        self._faults = faults
        self._records = records
        self._cache = cache
        self._gate = Gate()
        self._models = models(settings.models)
        self._number = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """What aiohttp calls for each request."""
        if request.path == "/_provider/stats":
            return web.Response(body=sse.wire(self._stats()), content_type="application/json")
        self._number += 1
        headers = {name.lower(): value for name, value in request.headers.items()}
        record = self._records.begin(self._number, request.method, request.raw_path, headers)
        gone = False
        try:
            return await self._serve(request, record)
        except (asyncio.CancelledError, ConnectionResetError):
            gone = not self.stopping.is_set()
            raise
        finally:
            self._records.end(record, aborted=gone)

    async def _serve(self, request: web.BaseRequest, record: Record) -> web.StreamResponse:
        exchange = _Exchange(record, self.settings)
        line = Line(request, record, self.stopping)
        try:
            # The content, not request.read(): that one has a limit of its own, with an answer of its own.
            self._records.received(record, await request.content.read())
            return await self._answered(exchange, line)
        except Refused as refused:
            body = sse.wire(refused.body(exchange.dialect, exchange.request_id))
            return line.body(body, {**exchange.headers, **refused.headers}, status=refused.status)

    async def _answered(self, exchange: _Exchange, line: Line) -> web.StreamResponse:
        record = exchange.record
        raw = _peek(record.body)
        fault = self._fault(record, raw)
        if fault is not None:
            record.fault = fault.kind
            if fault.at == BEFORE:
                if fault.kind == "status":
                    raise fault.refused()
                early = await line.early(fault, exchange.headers)
                if early is not None:
                    return early
                fault = None if fault.kind == "slow" else fault
        if not exchange.name:
            raise _no_such_url(record, exchange.dialect)
        check_key(record.headers, exchange.dialect, self.settings)
        limits = self._gate.enter(self.settings, exchange.dialect)
        exchange.headers.update(limits)
        try:
            return await self._admitted(exchange, line, raw, fault)
        finally:
            self._gate.leave()

    def _fault(self, record: Record, raw: Mapping[str, Any]) -> Fault | None:
        named = raw.get("model")
        wish = record.headers.get(FAULT_HEADER) or (named.partition("!")[2] if isinstance(named, str) else "")
        try:
            return self._faults.pick(record.number, wish)
        except ValueError as error:
            raise Refused(400, f"no fault: {wish} ({error})") from None

    async def _admitted(self, exchange: _Exchange, line: Line, raw: dict[str, Any], fault: Fault | None) -> web.StreamResponse:
        name, record = exchange.name, exchange.record
        if name.startswith("models"):
            return line.body(sse.wire(self._listed(name, exchange.dialect)), exchange.headers)
        if record.method != "POST":
            raise Refused(405, f"Not allowed to {record.method} on {record.path}.")
        if len(record.body) > self.settings.max_body:
            raise Refused(413)
        raw = raw or parse(record.body, exchange.dialect)
        facts = self._facts(raw, exchange.dialect)
        record.model = facts.name
        if name == "messages/count_tokens":
            heard = messages.count_heard(raw, facts)
            total = sum(self.settings.count(block.text) for block in heard.blocks)
            return line.body(sse.wire({"input_tokens": total}), exchange.headers)
        heard = _CODECS[name].hear(raw, facts, record.headers)
        record.protocol = heard.protocol
        return await self._said(exchange, line, heard, fault)

    async def _said(self, exchange: _Exchange, line: Line, heard: Heard, fault: Fault | None) -> web.StreamResponse:
        settings, record, codec = self.settings, exchange.record, _CODECS[exchange.name]
        plan = self._cache.plan(heard)
        said, thinking = await self._ask(heard, record, fault)
        output = settings.count(said.text or "")
        used = Usage(plan.total, output, plan.cached, plan.written, thinking)
        if settings.latency:
            await asyncio.sleep(settings.latency)
        record.usage = used
        self._cache.commit(plan)
        if exchange.dialect in _PROCESSING:
            exchange.headers[_PROCESSING[exchange.dialect]] = str(int((time.monotonic() - record.started) * 1000))
        size = max(settings.piece, -(-len(said.text or "") // _MOST_PIECES))
        pieces = sse.pieces(said.text or "", size)
        outcome = Outcome(heard, said, used, record.number, exchange.request_id, int(time.time()), pieces)
        data = codec.events(outcome) if heard.stream else sse.wire(codec.render(outcome))
        if fault is not None and fault.kind not in ANSWER_KINDS:
            errors = codec.error_events(fault.refused(), exchange.dialect, exchange.request_id) if heard.stream else []
            return await line.faulty(data, exchange.headers, fault, settings.pace, errors)
        if isinstance(data, bytes):
            return line.body(data, exchange.headers)
        return await line.stream(data, exchange.headers, settings.pace)

    # --- what is said -------------------------------------------------------------------------------------

    async def _ask(self, heard: Heard, record: Record, fault: Fault | None) -> tuple[Said, int]:
        """The answer within the request's limits, and the tokens of reasoning before it."""
        if heard.prewarm:
            return Said("", "length" if heard.protocol == "messages" else "end"), 0
        said = await self._call(heard, record)
        if fault is not None and fault.kind in ANSWER_KINDS:
            return fault.said(said), 0
        return _limited(_stopped(said, heard.stops), heard, self.settings)

    async def _call(self, heard: Heard, record: Record) -> Said:
        schema = dict(_ANY_JSON) if heard.json_mode else heard.schema
        ask = Ask(heard.protocol, heard.facts.name, heard.system, heard.turns, schema, heard.body, record.headers, record.number)
        try:
            found = self.answer(ask)
            said = await found if inspect.isawaitable(found) else found
        except Exception as error:  # whatever a test's function raises is a 500 here and raised again by stop()
            self.problems.append(error)
            raise Refused(500) from error
        return Said(said) if isinstance(said, str) else said

    # --- models -------------------------------------------------------------------------------------------

    def _facts(self, raw: Mapping[str, Any], dialect: Dialect) -> ModelFacts:
        named = raw.get("model")
        name = named.partition("!")[0] if isinstance(named, str) else ""
        found = self._models.get(name)
        if found is not None and found.dialect == dialect:
            return found
        if self.settings.foreign and name:
            return ModelFacts(name=name, dialect="foreign", caching="none", reasoning=False)
        if not isinstance(named, str):
            # The body's own check words this one.
            return ModelFacts(name="", dialect=dialect, caching="none")
        raise unknown_model(dialect, name)

    def _listed(self, name: str, dialect: Dialect) -> dict[str, Any]:
        wanted = name.partition("/")[2]
        known = [facts for facts in self._models.values() if facts.dialect == dialect]
        if wanted:
            found = next((facts for facts in known if facts.name == wanted), None)
            if found is None:
                raise unknown_model(dialect, wanted)
            return _card(found)
        cards = [_card(facts) for facts in known]
        if dialect != "anthropic":
            return {"object": "list", "data": cards}
        return {"data": cards, "has_more": False, "first_id": cards[0]["id"], "last_id": cards[-1]["id"]}

    def _stats(self) -> dict[str, Any]:
        used = self._records.usage()
        return {
            "requests": len(self._records),
            "in_flight": self._records.in_flight,
            "max_in_flight": self._records.max_in_flight,
            "statuses": {str(status): count for status, count in self._records.statuses.items()},
            "usage": {"input": used.input, "output": used.output, "cached": used.cached, "written": used.written_total},
        }


_PROCESSING: Mapping[Dialect, str] = {"openai": "openai-processing-ms", "anthropic": "x-envoy-upstream-service-time"}


class _Exchange:
    """One request, the endpoint it is for (empty for none), and the headers of its answer."""

    def __init__(self, record: Record, settings: Settings) -> None:
        self.record = record
        route = _ROUTE.fullmatch(record.path.partition("?")[0])
        self.name = route[1] if route else ""
        self.dialect: Dialect = _dialect(self.name, record, settings)
        if self.dialect == "foreign" and self.name != "chat/completions" and not self.name.startswith("models"):
            self.name = ""
        self.request_id = f"req_{record.number:024d}"
        self.headers: dict[str, str] = {}
        if self.dialect == "openai":
            self.headers = {"x-request-id": self.request_id, "openai-version": "2020-10-01"}
        elif self.dialect == "anthropic":
            self.headers = {"request-id": self.request_id, "anthropic-organization-id": "loopback"}


def _dialect(name: str, record: Record, settings: Settings) -> Dialect:
    if settings.foreign:
        return "foreign"
    if name.startswith("messages") or (not name.startswith(("chat", "responses")) and "anthropic-version" in record.headers):
        return "anthropic"
    return "openai"


def _no_such_url(record: Record, dialect: Dialect) -> Refused:
    if dialect == "openai":
        return Refused(404, f"Invalid URL ({record.method} {record.path})", code="invalid_url")
    return Refused(404, "Not Found" if dialect == "foreign" else f"Not found: {record.path}")


def _peek(body: bytes) -> dict[str, Any]:
    """The body, empty when it is no JSON object: that is an error only after faults and keys had their say."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    return raw if isinstance(raw, dict) else {}


def _card(facts: ModelFacts) -> dict[str, Any]:
    if facts.dialect != "anthropic":
        return {"id": facts.name, "object": "model", "created": _LISTED, "owned_by": "loopback"}
    created = "2026-01-01T00:00:00Z"
    return {"type": "model", "id": facts.name, "display_name": facts.name, "created_at": created, "lifecycle": "active"}


def _stopped(said: Said, stops: tuple[str, ...]) -> Said:
    """Cut before the first of the stop sequences."""
    text = said.text or ""
    places = [(text.index(stop), stop) for stop in stops if stop and stop in text]
    if said.stop != "end" or not places:
        return said
    place, stop = min(places)
    return Said(text[:place], "end", stop, said.usage)


def _limited(said: Said, heard: Heard, settings: Settings) -> tuple[Said, int]:
    """Cut to the request's limit of output tokens, which reasoning uses up first."""
    thinking = settings.reasoning_tokens if heard.thinks else 0
    if heard.limit is None or said.text is None or said.stop == "tool":
        return said, thinking
    thinking = min(thinking, heard.limit)
    room = heard.limit - thinking
    if settings.count(said.text) <= room:
        return said, thinking
    if not room:
        return Said("", "length", usage=said.usage), thinking
    text = said.text
    kept = bisect.bisect_right(range(len(text) + 1), room, key=lambda size: settings.count(text[:size])) - 1
    return Said(text[:kept], "length", usage=said.usage), thinking
