"""The service as one worker has it: requests come in by path, go through the door, and leave as answers or refusals."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import NamedTuple

from ..canonical import Scalar
from ..chat import Turn
from ..errors import InputError, NotCompiled, PromptsmithError, UnknownName
from ..models.wire import Codec, Incoming, codec
from ..prompt import Prompt
from ..redact import redact
from ..registry.resolve import Resolved
from ..runtime.core import Core
from ..runtime.values import Given, RunOptions
from . import answers, cors, reading
from . import http as web
from .arms import Arms
from .door import Door
from .ending import Ending
from .keys import Scope
from .metrics import Endpoint
from .plain import COUNT, RUN, Plain
from .refusals import Refusal, refusal, wrong_method
from .relay import Relay
from .serving import Serving
from .visit import Visit
from .wanted import check, given, ignored, parameters, read

Web = Callable[[web.Request, str, Visit], Awaitable[web.StreamResponse | None]]
"""What answers the paths of the pages; ``None`` for any other path."""
_PROBED = frozenset({"/healthz", "/readyz"})
"""What programs ask that may name no host, and what tells nothing but that."""
_LOOKED_AT = _PROBED | {"/metrics"}
"""What is answered however many requests are under way: a busy service is not a broken one."""
_JSON = "application/json"
_LONGEST_REF = 1000
_LAST_WORDS = 1.0
"""Seconds that a client has for taking the end of a stream that was broken off."""
_STREAM = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


class _Asked(NamedTuple):
    """A request to one of the three APIs, read and resolved."""

    request: web.Request
    visit: Visit
    api: Codec
    incoming: Incoming
    resolved: Resolved
    inputs: Given
    options: RunOptions


class App:
    """Everything that answers. ``ending`` is told of every request that is over."""

    def __init__(self, core: Core, door: Door, arms: Arms, ending: Ending, pages: Web) -> None:
        self.pages = pages
        self.core, self.door, self.arms, self.ending = core, door, arms, ending
        self.settings = core.project.config.service
        self._tasks: dict[Visit, asyncio.Task[object]] = {}
        self.draining = False
        self._over = asyncio.Event()
        self._serving = Serving(core)
        self._relay = Relay(core.store)
        self._plain = Plain(self)
        self._codecs: dict[str, tuple[Endpoint, Codec]] = {
            "/v1/chat/completions": ("chat", codec("openai")),
            "/v1/messages": ("messages", codec("anthropic")),
            "/v1/responses": ("responses", codec("openai", "responses")),
        }

    async def idle(self) -> None:
        """Returns when no request is under way."""
        while self.under_way:
            self._over.clear()
            await self._over.wait()

    def unready(self) -> list[str]:
        """Why this worker could answer nobody, in words; empty where there is a prompt that it can serve."""
        resolver, reasons = self.core.resolver, dict[str, None]()
        try:
            tasks = resolver.registry.tasks()
        except PromptsmithError as error:
            return [error.message]
        for task in tasks:
            try:
                entry, _ = resolver.entry(task)
            except PromptsmithError as error:
                reasons[error.message] = None
                continue
            if entry is not None and any(map(entry.prompt, entry.aliases.values())):
                return []
            reasons[f"{task} has no prompt under an alias"] = None
        return list(reasons) or ["no prompt is promoted: promptsmith promote"]

    # --- every request --------------------------------------------------------------------------------

    async def __call__(self, request: web.Request) -> web.StreamResponse:
        """The answer to any request; raises nothing but that the client left."""
        path = request.path
        visit = Visit(path, self._endpoint(path))
        task = self._tasks[visit] = _this_task()
        self.ending.metrics.began()
        try:
            response = await self._routed(request, path, visit)
            visit.status = response.status
            if visit.cors and not response.prepared:
                response.headers.update(cors.headers(visit.cors))
        except asyncio.CancelledError:
            if not visit.late:
                visit.gone, visit.status = True, 499
                raise
            task.uncancel()
            if visit.first_byte is not None:
                raise _cut_off(request, visit) from None  # a second answer in the middle of the first would be read as a part of it
            return self._refused(_too_late(), request, visit)
        except Exception as error:
            if visit.gone:
                visit.status = 499
                raise
            return self._refused(error, request, visit)
        else:
            return response
        finally:
            del self._tasks[visit]
            if self.draining:
                self._over.set()
            self.ending.over(visit, request)

    def refused(self, request: web.Request, status: int, text: str) -> None:
        """Tells of a request that the server refused for its headers as of any other."""
        visit = Visit(request.path, self._endpoint(request.path))
        visit.status, visit.code, visit.error = status, "bad_request", text
        self.ending.metrics.began()
        self.ending.over(visit, request)

    def _endpoint(self, path: str) -> Endpoint | None:
        known = self._codecs.get(path)
        if known is not None:
            return known[0]
        return "run" if path.startswith(RUN) else "count_tokens" if path == COUNT else None

    @property
    def under_way(self) -> int:
        """How many requests have come and are not answered."""
        return len(self._tasks)

    def end_late(self) -> None:
        """Ends requests that take longer than the service allows. A timer for each would cost more than looking at all now and then."""
        for visit, task in list(self._tasks.items()):
            if visit.elapsed() > self.settings.answer_seconds and not visit.late:
                visit.late = True
                task.cancel()

    async def _routed(self, request: web.Request, path: str, visit: Visit) -> web.StreamResponse:
        self._check_origin(request, path, visit)
        if request.method == "OPTIONS" and visit.cors:
            return web.Response(status=204, headers={**cors.headers(visit.cors), **cors.PREFLIGHT})
        if self.under_way > self.settings.concurrency and path not in _LOOKED_AT:
            raise Refusal(503, "the service has as many requests under way as it takes", code="overloaded", retry_after=1.0)
        known = self._codecs.get(path)
        if known is not None:
            if request.method != "POST":
                raise wrong_method("POST")
            return await self._asked(request, visit, known[1])
        return await self._plain.routed(request, path, visit)

    def _check_origin(self, request: web.Request, path: str, visit: Visit) -> None:
        """A page of another site may call only where the settings name it: without keys, any page could spend money here."""
        host = request.headers.get("host", "")
        if not cors.is_local(host) and path not in _PROBED and self.door.open():
            what = f"the request is for {host[:200]!r}, and a service without keys answers only by the names of this machine"
            raise Refusal(403, what, code="host_refused", hint="promptsmith keys add NAME makes a key")
        origin = request.headers.get("origin")
        if not origin or cors.same(origin, host):
            return
        if origin not in self.settings.cors:
            raise Refusal(
                403, f"pages of {origin[:200]} may not call this service", code="origin_refused", hint="[service] cors names origins"
            )
        visit.cors = origin

    def _speaks(self, request: web.Request) -> Codec:
        """The codec of whoever calls, as far as it shows: elsewhere than at the three APIs, only Anthropic's clients name a version."""
        known = self._codecs.get(request.path)
        if known is not None:
            return known[1]
        anthropic = request.path.startswith("/v1/messages/") or "anthropic-version" in request.headers
        return self._codecs["/v1/messages" if anthropic else "/v1/chat/completions"][1]

    def _refused(self, error: BaseException, request: web.Request, visit: Visit) -> web.StreamResponse:
        told = refusal(error)
        visit.error = told.message
        if isinstance(error, UnknownName) and visit.prompt:
            # The client's name was found. Which models there are is for the log, and none of its business.
            told = Refusal(503, f"{visit.task} needs a model that this service does not have", code="model_unavailable")
        visit.status, visit.code = told.status, told.code
        if told.code == "internal_error":
            visit.error = f"{type(error).__name__}: {error}"
            self.ending.fault(visit, error)
        visit.upstream_id = told.request_id or visit.upstream_id
        body = self._speaks(request).write_error(
            told.status, redact(told.text), code=told.told_code, request_id=visit.upstream_id or visit.id
        )
        return web.Response(status=told.status, body=body, headers=self._refusal_headers(told, visit))

    @staticmethod
    def _refusal_headers(told: Refusal, visit: Visit) -> dict[str, str]:
        headers = {"content-type": _JSON, **visit.outcome_headers(), **visit.ids()}
        headers["x-promptsmith-error"] = "upstream" if told.upstream else "service"
        # Both official clients ask this before they repeat a call.
        headers["x-should-retry"] = "true" if told.repeatable else "false"
        if told.retry_after is not None:
            headers["retry-after"] = str(max(0, math.ceil(told.retry_after)))
            headers["retry-after-ms"] = str(max(0, round(told.retry_after * 1000)))
        if told.allow:
            headers["allow"] = told.allow
        if told.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    # --- the three APIs -------------------------------------------------------------------------------

    async def _asked(self, request: web.Request, visit: Visit, api: Codec) -> web.StreamResponse:
        self.door.enter(request.headers, visit, "run")
        incoming = read(await reading.body(request, self.settings, visit), api)
        visit.stream, visit.ignored = incoming.stream, incoming.ignored
        sticky = request.headers.get(self.settings.sticky_header) or incoming.user or incoming.metadata.get("user_id") or None
        resolved = self.resolve(incoming.model, visit, sticky)
        prompt = resolved.prompt
        check(prompt, incoming, appends=self.settings.client_system == "append")
        inputs, history = given(prompt, incoming)
        wanted = parameters(prompt, incoming)
        visit.ignored = ignored(prompt, incoming, inputs, wanted, request.headers)
        asked = _Asked(request, visit, api, incoming, resolved, inputs, _options(incoming, history, wanted))
        self.arms.shadow(visit, resolved, inputs, asked.options, sticky)
        return await self._relayed(asked) or await self._answered(asked)

    async def _relayed(self, asked: _Asked) -> web.StreamResponse | None:
        """The provider's own bytes; ``None`` where these can't be the answer."""
        if "appended" in asked.options:
            return None
        visit, api, prompt = asked.visit, asked.api, asked.resolved.prompt
        served = self._serving.make(prompt, api, asked.options) if "parameters" in asked.options else self._serving.find(prompt, api)
        if served.upstream is None:
            return None
        visit.model, visit.ungated = served.upstream.name, served.handle.ungated
        turns = (*asked.incoming.turns[:-1], served.turn(asked.inputs))
        if asked.incoming.stream:
            events = self._relay.stream(served, turns, visit, usage=asked.incoming.stream_usage)
            return await self.streamed(asked.request, visit, events, _event_of(api, visit))
        body, passed = await self._relay.whole(served, turns, visit)
        return self.whole(body, visit, passed)

    async def _answered(self, asked: _Asked) -> web.StreamResponse:
        """The runtime's answer, written in the client's protocol."""
        visit, api = asked.visit, asked.api
        visit.model = asked.resolved.prompt.model
        call, created = self.core.prepare(asked.resolved, asked.inputs, asked.options), int(self.ending.now())
        visit.caches = call.uses_cache
        if asked.incoming.stream:
            events = answers.stream(self.core, call, api, visit, created=created, usage=asked.incoming.stream_usage)
            return await self.streamed(asked.request, visit, events, _event_of(api, visit))
        result = await answers.whole(self.core, call, visit)
        reply, schema = answers.as_reply(result), answers.schema_of(call)
        body = api.write_reply(reply, model=visit.model, id=visit.reply_id(api), created=created, schema=schema)
        return self.whole(body, visit, {})

    def resolve(self, ref: str, visit: Visit, sticky: str | None, scope: Scope = "run", *, drawn: bool = True) -> Resolved:
        """The prompt that a model's name means for this caller; unless it is ``drawn`` for, no canary's candidate.

        Raises :class:`Refusal` with status 404 for one that the caller may not call.
        """
        task = ref.partition("@")[0]
        if len(ref) > _LONGEST_REF:
            raise Refusal(404, f"no prompt has a name of {len(ref)} characters", code="model_not_found")
        if not self.door.allows(visit.key, task, scope):
            # In the same words as one that does not exist: whether it does is none of this key's business.
            raise self.door.unknown(UnknownName(f"unknown task {task[:200]!r}"), ref, visit.key, self.core.resolver)
        try:
            resolved = self.arms.resolve(ref, visit, sticky, drawn=drawn)
        except (UnknownName, InputError, NotCompiled) as error:
            raise self.door.unknown(error, ref, visit.key, self.core.resolver) from None
        prompt = resolved.prompt
        visit.task, visit.prompt, visit.origin = prompt.task, prompt.id, resolved.origin
        if visit.key is not None and visit.key.usd_per_day is not None:
            for model in self._askable(prompt):
                self.door.check_price(visit.key, model, self.core.directory.rates.find(model) is not None)
        return resolved

    def _askable(self, prompt: Prompt) -> Iterator[str]:
        """Every model that a call of ``prompt`` may come to be paid for."""
        yield prompt.model
        yield from prompt.serve.fallback
        if self.core.policy(prompt, {}) == "escalate":
            stronger = prompt.serve.escalate or self.core.project.config.models.meta
            if stronger:  # without one no call is made at all
                yield stronger

    @staticmethod
    def whole(body: bytes, visit: Visit, passed: Mapping[str, str]) -> web.Response:
        """An answer that is no stream; ``passed`` are headers of the provider's."""
        return web.Response(body=body, headers={"content-type": _JSON, **visit.ids(), **passed, **visit.outcome_headers()})

    async def streamed(
        self, request: web.Request, visit: Visit, events: AsyncGenerator[bytes, None], event_of: Callable[[Refusal], bytes]
    ) -> web.StreamResponse:
        """The answer in pieces. What fails before the first one is told with its status, later as the protocol's error event."""
        async with aclosing(events):
            await anext(events)
            response = web.StreamResponse(headers={**_STREAM, **visit.headers(), **visit.ids()})
            await response.prepare(request)
            try:
                async for piece in events:
                    if visit.first_byte is None:
                        visit.first_byte = visit.elapsed()
                    # The last piece goes out with the end of the body in one packet.
                    await self._taken(visit, response.write_eof(piece) if visit.complete else response.write(piece))
                if not visit.complete:
                    await self._taken(visit, response.write_eof())
            except asyncio.CancelledError:
                if not visit.late:
                    raise
                _this_task().uncancel()
                await self._broken_off(request, response, visit, _too_late(), event_of)
            except Exception as error:
                if visit.gone:
                    raise
                told = refusal(error)
                if told.code == "internal_error":
                    self.ending.fault(visit, error)
                await self._broken_off(request, response, visit, told, event_of)
            return response

    @staticmethod
    async def _taken(visit: Visit, sent: Awaitable[None]) -> None:
        """Waits until the client takes what was sent. Raises ``OSError`` when it has left."""
        try:
            await visit.wait(sent)
        except OSError:
            visit.gone = True
            raise

    @staticmethod
    async def _broken_off(
        request: web.Request, response: web.StreamResponse, visit: Visit, told: Refusal, event_of: Callable[[Refusal], bytes]
    ) -> None:
        """Ends a stream that has begun with the protocol's error event."""
        visit.code, visit.error = told.code, told.message
        try:
            async with asyncio.timeout(_LAST_WORDS):
                await response.write_eof(visit.comment() + event_of(told))
        except (OSError, TimeoutError):
            raise _cut_off(request, visit) from None


def _options(incoming: Incoming, history: tuple[Turn, ...], wanted: Mapping[str, Scalar]) -> RunOptions:
    options: RunOptions = {"unfinished": True}  # it says so in its own protocol's words
    if history:
        options["history"] = history
    if wanted:
        options["parameters"] = wanted
    if incoming.system:
        options["appended"] = incoming.system
    return options


def _event_of(api: Codec, visit: Visit) -> Callable[[Refusal], bytes]:
    """Writes the end of a stream that failed: by whatever has written its beginning, unless that was the provider."""

    def event(told: Refusal) -> bytes:
        writer = visit.writer or api.writer(model=visit.model, id=visit.reply_id(api))
        return writer.error(told.status, told.text, code=told.told_code)

    return event


def _cut_off(request: web.Request, visit: Visit) -> ConnectionResetError:
    """Ends the connection of a client that does not read; the error is for the server, which is done with it then."""
    if request.transport is not None:
        request.transport.abort()
    visit.gone, visit.status = True, 499
    return ConnectionResetError("the client does not read")


def _too_late() -> Refusal:
    return Refusal(504, "the answer took longer than the service allows", code="timeout")


def _this_task() -> asyncio.Task[object]:
    task = asyncio.current_task()
    assert task is not None
    return task
