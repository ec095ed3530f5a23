"""Every path that is none of the three chat APIs: lists, counts, typed runs, health, figures, the OpenAPI document, pages."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from ..errors import InputError, PromptsmithError
from ..models.limits import input_tokens
from ..models.wire import read_body
from ..prompt import Prompt
from ..runtime.values import RunOptions
from ..version import VERSION
from . import answers, reading
from . import http as web
from .keys import Scope
from .metrics import CONTENT_TYPE
from .models import listing, one_model
from .refusals import Refusal, wrong_method
from .visit import Visit
from .wanted import check, given

if TYPE_CHECKING:
    from .app import App

_JSON = "application/json"
RUN, COUNT, _MODELS = "/v1/run/", "/v1/messages/count_tokens", "/v1/models/"


class RunBody(msgspec.Struct, forbid_unknown_fields=True):
    """What ``POST /v1/run/{task}`` takes."""

    input: str | msgspec.UnsetType = msgspec.UNSET
    inputs: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    canary_key: str | msgspec.UnsetType = msgspec.UNSET
    stream: bool = False


class Plain:
    """The paths of one worker's :class:`App`."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._exact: dict[tuple[str, str], Callable[[web.Request, Visit], Awaitable[web.StreamResponse]]] = {
            ("GET", "/healthz"): self._health,
            ("GET", "/readyz"): self._ready,
            ("GET", "/metrics"): self._metrics,
            ("GET", "/openapi.json"): self._openapi,
            ("GET", "/v1/models"): self._models,
            ("POST", COUNT): self._count,
        }
        self._allow = {path: "POST" if method == "POST" else "GET, HEAD" for method, path in self._exact}

    async def routed(self, request: web.Request, path: str, visit: Visit) -> web.StreamResponse:
        """The answer to whatever stands at ``path``. Raises :class:`Refusal` with status 404 or 405 where nothing does."""
        method = "GET" if request.method == "HEAD" else request.method
        handler = self._exact.get((method, path))
        if handler is not None:
            return await handler(request, visit)
        if path.startswith(RUN):
            if method != "POST":
                raise wrong_method("POST")
            return await self._run(request, path[len(RUN) :], visit)
        if path.startswith(_MODELS):
            if method != "GET":
                raise wrong_method("GET, HEAD")
            return await self._model(request, path[len(_MODELS) :], visit)
        if path in self._allow:
            raise wrong_method(self._allow[path])
        page = await self._app.pages(request, path, visit)
        if page is not None:
            return page
        raise Refusal(404, f"nothing is at {path[:200]}", code="not_found", hint="GET /openapi.json lists what is here")

    # --- for machines ---------------------------------------------------------------------------------

    async def _health(self, _request: web.Request, _visit: Visit) -> web.Response:
        return _json({"status": "ok"})

    async def _ready(self, _request: web.Request, _visit: Visit) -> web.Response:
        """Whether requests should come here: not while it ends, and not where it could answer none."""
        problems = ["the service is ending"] if self._app.draining else self._app.unready()
        return _json({"status": "ready" if not problems else "not ready", "problems": problems}, 503 if problems else 200)

    async def _metrics(self, request: web.Request, visit: Visit) -> web.Response:
        self._app.door.enter(request.headers, visit, "read")
        if visit.key is not None and visit.key.tasks:
            raise Refusal(403, f"the key {visit.key.name} is for some tasks, and the figures are of all", code="not_allowed")
        page = await asyncio.to_thread(lambda: self._app.ending.metrics.render(self._app.arms.shares()))
        return web.Response(body=page, headers={"content-type": CONTENT_TYPE})

    async def _openapi(self, request: web.Request, visit: Visit) -> web.Response:
        scope = self._app.door.look(request.headers, visit)
        from .openapi import ServedTask, document  # nobody's answer needs it

        tasks = [ServedTask(task, prompt) for task, prompt in self._served(visit, scope)]
        return _json(document(tasks, version=VERSION, secured=not self._app.door.open()))

    def _served(self, visit: Visit, scope: Scope) -> list[tuple[str, Prompt]]:
        found = []
        resolver = self._app.core.resolver
        for task in resolver.tasks():
            if not self._app.door.allows(visit.key, task, scope):
                continue
            try:
                found.append((task, resolver.resolve(task).prompt))
            except PromptsmithError:
                continue  # not promoted yet, or damaged: then it can't be called either
        return found

    async def _models(self, request: web.Request, visit: Visit) -> web.Response:
        door = self._app.door
        scope = door.look(request.headers, visit)
        return _json(listing(self._app.core.resolver, lambda task: door.allows(visit.key, task, scope)))

    async def _model(self, request: web.Request, name: str, visit: Visit) -> web.Response:
        scope = self._app.door.look(request.headers, visit)
        ref = unquote(name)
        resolved = self._app.resolve(ref, visit, None, scope, drawn=False)
        return _json(one_model(ref, resolved.prompt, visit.alias))

    async def _count(self, request: web.Request, visit: Visit) -> web.Response:
        """Tokens of a request with the prompt in it: an estimate, since the provider's tokenizer is not here."""
        app = self._app
        app.door.enter(request.headers, visit, "run")
        data = await reading.body(request, app.settings, visit)
        from ..models.wire.anthropic import read_count, write_count

        incoming = read_count(data)
        visit.ignored = incoming.ignored
        resolved = app.resolve(incoming.model, visit, None, drawn=False)
        visit.model = resolved.prompt.model
        check(resolved.prompt, incoming, appends=app.settings.client_system == "append")
        inputs, history = given(resolved.prompt, incoming)
        asked = app.core.handle(resolved.prompt, {}).renderer.request(inputs, history=history, appended=incoming.system)
        return app.whole(write_count(input_tokens(asked)), visit, {})

    # --- typed runs -----------------------------------------------------------------------------------

    async def _run(self, request: web.Request, name: str, visit: Visit) -> web.StreamResponse:
        app = self._app
        app.door.enter(request.headers, visit, "run")
        data = await reading.body(request, app.settings, visit)
        body = _run_body(data)
        visit.stream = body.stream
        sticky = request.headers.get(app.settings.sticky_header) or body.canary_key or None
        resolved = app.resolve(unquote(name), visit, sticky)
        inputs = body.input if isinstance(body.input, str) else body.inputs or {}
        visit.model = resolved.prompt.model
        options: RunOptions = {}
        call = app.core.prepare(resolved, inputs, options)
        visit.caches = call.uses_cache
        app.arms.shadow(visit, resolved, inputs, options, sticky)
        response: web.StreamResponse
        if body.stream:
            response = await app.streamed(request, visit, answers.plain_stream(app.core, call, visit), _error_event)
        else:
            result = await answers.whole(app.core, call, visit)
            response = app.whole(msgspec.json.encode(answers.told(result)), visit, {})
        return response


def _run_body(data: bytes) -> RunBody:
    read_body(data)  # the decoder below would take a key that stands twice
    try:
        body = msgspec.json.decode(data, type=RunBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"the request's body: {error}", hint='{"input": "a text"} or {"inputs": {"name": "text"}}') from None
    if (body.input is msgspec.UNSET) == (body.inputs is msgspec.UNSET):
        raise InputError("the request's body needs either input or inputs", hint='{"input": "a text"} or {"inputs": {"name": "text"}}')
    return body


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(value), headers={"content-type": _JSON})


def _error_event(told: Refusal) -> bytes:
    error = {"message": told.message, "type": "error", "code": told.told_code, "hint": told.hint}
    return b"event: error\ndata: " + msgspec.json.encode({"error": error}) + b"\n\n"
