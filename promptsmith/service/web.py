"""The pages over HTTP: who may see them, what each address shows, and what the forms do."""

from __future__ import annotations

import asyncio
import math
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, urlencode

import msgspec

from ..config import check_task_name
from ..errors import InputError, PromptsmithError, UnknownName
from ..evals.report import Reports
from ..models.waiting import Late
from ..orchestration.outcomes import load_outcome
from ..pages import provenance, report, trace
from ..pages.frame import Frame, Notice, policy
from ..pages.service import costs, doors, overview, paths, reports, task, traces, tryout
from ..pages.service.values import Answer, Costs, Fault, ReportList
from ..prompt import TEXT_INPUT
from ..registry.resolve import Resolved
from ..runtime.core import Core
from ..runtime.values import Given, Result
from . import answers, reading, web_values
from . import http as web
from .door import Door
from .keys import Key, Scope, allowed
from .moves import Moves
from .refusals import Refusal, refusal
from .sessions import COOKIE, HOURS, Sessions
from .visit import Visit
from .web_values import Sources

_HTML = "text/html; charset=utf-8"
_FORM = "application/x-www-form-urlencoded"
_FORMS = ("/try/", "/promote/", "/rollback/", "/canary/")
"""Where forms about a task are sent; its name comes after."""


class Viewer(NamedTuple):
    """Who looks at a page. ``cookie`` is empty for somebody who is not signed in, which is nobody where keys are asked for."""

    key: Key | None
    cookie: str
    frame: Frame


class Pages:
    """The pages of one worker. Called with a path that is none of theirs they give ``None``."""

    def __init__(self, core: Core, door: Door, sources: Sources, sessions: Sessions, moves: Moves, *, secure: bool) -> None:
        self._core, self._door, self._sources, self._sessions, self._moves = core, door, sources, sessions, moves
        self._secure = secure
        self._settings = core.project.config.service
        self._whole: dict[str, Callable[[Viewer, dict[str, str]], str]] = {
            "/": self._overview,
            "/try": lambda viewer, _: tryout.choose(self._tasks(viewer, "run"), viewer.frame),
            "/reports": lambda viewer, query: reports.html(self._reports(viewer, query.get("task", "")), viewer.frame),
            "/traces": self._traces,
            "/costs": lambda viewer, _: costs.html(self._costs(viewer), viewer.frame),
        }
        self._under: dict[str, Callable[[Viewer, str, dict[str, str]], str]] = {
            "/tasks/": self._task,
            "/provenance/": self._provenance,
            "/try/": self._form,
            "/reports/": self._report,
            "/traces/": self._trace,
        }

    async def __call__(self, request: web.Request, path: str, visit: Visit) -> web.StreamResponse | None:
        """The answer to a request for a page."""
        method = "GET" if request.method == "HEAD" else request.method
        looks = method == "GET" and (path == "/sign-in" or path in self._whole or bool(self._prefix(path)))
        sends = method == "POST" and (path in {"/sign-in", "/sign-out"} or path.startswith(_FORMS))
        if not looks and not sends and "text/html" not in request.headers.get("accept", ""):
            return None
        try:
            viewer = self._viewer(request, visit)
        except PromptsmithError as error:  # the keys can't be read
            return _fault(refusal(error), self._seen(None, "", None), visit)
        if looks:
            return await self._shown(request, path, viewer, visit)
        if sends:
            return await self._sent(request, path, viewer, visit)
        return _fault(Refusal(404, f"nothing is at {path[:200]}", code="not_found"), viewer, visit)

    def _prefix(self, path: str) -> str:
        return next((prefix for prefix in self._under if path.startswith(prefix) and len(path) > len(prefix)), "")

    # --- looking --------------------------------------------------------------------------------------

    async def _shown(self, request: web.Request, path: str, viewer: Viewer, visit: Visit) -> web.StreamResponse:
        try:
            query = _fields(request.query_string)
            if path == "/sign-in":
                return _page(doors.sign_in(viewer.frame, leads_to=query.get("next", "/")), viewer)
            if viewer.key is None and not self._door.open():
                return _see_other(f"/sign-in?{urlencode({'next': request.path_qs})}")
            _check_reads(viewer)
            if path in self._whole:
                html = await asyncio.to_thread(self._whole[path], viewer, query)
            else:
                prefix = self._prefix(path)
                html = await asyncio.to_thread(self._under[prefix], viewer, path[len(prefix) :], query)
        except (PromptsmithError, Refusal) as error:
            return _fault(_told(error, viewer), viewer, visit)
        return _page(html, viewer)

    def _viewer(self, request: web.Request, visit: Visit) -> Viewer:
        cookie = request.cookies.get(COOKIE, "")
        key = self._sessions.key(cookie) if cookie else None
        visit.key = key
        return self._seen(key, cookie if key is not None else "", self._notice(request, cookie))

    def _seen(self, key: Key | None, cookie: str, notice: Notice | None) -> Viewer:
        frame = Frame(
            nonce=secrets.token_urlsafe(16),
            project=self._core.project.root.name,
            who=key.name if key is not None else "",
            admin=key is not None and "admin" in key.scopes,
            csrf=self._sessions.token(cookie) if key is not None else "",
            server_registry=bool(self._core.project.config.registry),
            notice=notice,
        )
        return Viewer(key, cookie, frame)

    def _notice(self, request: web.Request, cookie: str) -> Notice | None:
        """What the last form came to; only in words of ours, or a link could put any words on a page."""
        said = request.query.get("done", "")
        return Notice(said) if said and self._sessions.is_seal(cookie, said, request.query.get("seal", "")) else None

    def _mine(self, viewer: Viewer, name: str) -> str:
        if not self._door.allows(viewer.key, check_task_name(name), "read"):
            raise Refusal(404, f"unknown task {name[:200]!r}", code="not_found")
        return name

    def _tasks(self, viewer: Viewer, scope: Scope = "read") -> list[str]:
        return [name for name in self._core.resolver.tasks() if self._door.allows(viewer.key, name, scope)]

    def _overview(self, viewer: Viewer, _query: dict[str, str]) -> str:
        found = web_values.overview(self._sources)
        mine = set(self._tasks(viewer))
        return overview.html(msgspec.structs.replace(found, tasks=tuple(row for row in found.tasks if row.task in mine)), viewer.frame)

    def _reports(self, viewer: Viewer, name: str) -> ReportList:
        mine = self._mine(viewer, name) if name else ""
        return web_values.report_list(self._sources, mine, lambda task: self._door.allows(viewer.key, task, "read"))

    def _costs(self, viewer: Viewer) -> Costs:
        _check_all(viewer, "costs are of all")
        return web_values.costs(self._sources)

    def _traces(self, viewer: Viewer, _query: dict[str, str]) -> str:
        _check_all(viewer, "plans may have used any")
        return traces.html(web_values.trace_list(self._sources), viewer.frame)

    def _task(self, viewer: Viewer, name: str, query: dict[str, str]) -> str:
        found = web_values.task_page(
            self._sources, self._mine(viewer, name), at=query.get("at", ""), older=query.get("from", ""), newer=query.get("to", "")
        )
        return task.html(found, viewer.frame)

    def _provenance(self, viewer: Viewer, name: str, query: dict[str, str]) -> str:
        found = web_values.kept(self._sources, self._mine(viewer, name), query.get("at", ""))
        return provenance.html(found, viewer.frame.at("overview"))

    def _form(self, viewer: Viewer, name: str, query: dict[str, str]) -> str:
        self._check_runs(viewer, self._mine(viewer, name))
        return tryout.html(web_values.try_it(self._sources, name, at=query.get("at", "")), viewer.frame)

    def _report(self, viewer: Viewer, name: str, _query: dict[str, str]) -> str:
        found = Reports(self._core.project.cache).load(name)
        if not self._door.allows(viewer.key, found.head.task, "read"):
            # In the same words as one that is not there: whether it is, is none of this key's business.
            raise UnknownName(f"no report has an id that begins with {name}")
        return report.html(found, viewer.frame.at("reports"))

    def _trace(self, viewer: Viewer, name: str, _query: dict[str, str]) -> str:
        _check_all(viewer, "plans may have used any")
        return trace.html(load_outcome(self._core.store, name), viewer.frame.at("traces"))

    def _check_runs(self, viewer: Viewer, name: str) -> None:
        if viewer.key is not None and not self._door.allows(viewer.key, name):
            raise Refusal(403, f"the key {viewer.key.name} may not call {name[:200]}", code="not_allowed")

    # --- sending --------------------------------------------------------------------------------------

    async def _sent(self, request: web.Request, path: str, viewer: Viewer, visit: Visit) -> web.StreamResponse:
        try:
            _check_form(request)
            fields = _fields((await reading.body(request, self._settings, visit)).decode("utf-8", "replace"))
            if path == "/sign-in":
                return await self._sign_in(viewer, fields)
            if viewer.key is None and not self._door.open():
                over = Refusal(401, "the session is over", code="no_session", hint="load the page again")
                return _failed(over, visit) if _streams(request) else _see_other("/sign-in")
            self._check_token(viewer, fields)
            if path == "/sign-out":
                return _signed_out(self._secure)
            _check_reads(viewer)
            if path.startswith("/try/"):
                return await self._tried(request, path[len("/try/") :], fields, viewer, visit)
            return await self._moved(path, fields, viewer)
        except (PromptsmithError, Refusal) as error:
            told = _told(error, viewer)
            return _failed(told, visit) if _streams(request) else _fault(told, viewer, visit, _page_of(path))

    def _check_token(self, viewer: Viewer, fields: dict[str, str]) -> None:
        if viewer.key is not None and not self._sessions.is_token(viewer.cookie, fields.get("csrf", "")):
            raise Refusal(403, "the form did not come from a page of this session", code="wrong_token", hint="load the page again")

    def _shown_key(self, fields: dict[str, str]) -> Key:
        key = self._door.key({"x-api-key": fields.get("key", "")})
        if key is None:
            raise Refusal(401, "no key was ever made here, so there is nothing to sign in with", code="wrong_key")
        return key

    async def _sign_in(self, viewer: Viewer, fields: dict[str, str]) -> web.StreamResponse:
        try:
            key = self._shown_key(fields)
        except Refusal as error:
            return _page(doors.sign_in(viewer.frame, leads_to=fields.get("next", "/"), wrong=error.message), viewer, status=401)
        response = _see_other(paths.inside(fields.get("next", "/")))
        response.set_cookie(
            COOKIE, self._sessions.begun(key), max_age=HOURS * 3600, path="/", httponly=True, samesite="Strict", secure=self._secure
        )
        return response

    async def _moved(self, path: str, fields: dict[str, str], viewer: Viewer) -> web.StreamResponse:
        _, what, name = path.split("/", 2)
        if viewer.key is None or "admin" not in viewer.key.scopes:
            raise Refusal(403, "moving an alias needs a key with the scope admin", code="not_allowed")
        self._mine(viewer, name)
        who, why, alias = viewer.key.name, fields.get("why", ""), fields.get("alias", "production")
        seen = {key.removeprefix(paths.EXPECTED): value for key, value in fields.items() if key.startswith(paths.EXPECTED)}
        moves = self._moves
        ref = f"{name}@{fields.get('prompt', '')}"

        def act() -> str:
            if what == "promote":
                return moves.promote(ref, alias, who=who, why=why, seen=seen)
            if what == "rollback":
                return moves.rollback(name, alias, who=who, why=why, seen=seen)
            if fields.get("do") == "stop":
                return moves.stop(name, alias, who=who, why=why)
            return moves.start(ref, alias, mode=_mode(fields), percent=_percent(fields), who=who, why=why)

        said = await asyncio.to_thread(act)
        return _see_other(f"{paths.task(name)}?{urlencode({'done': said, 'seal': self._sessions.seal(viewer.cookie, said)})}")

    async def _tried(self, request: web.Request, name: str, fields: dict[str, str], viewer: Viewer, visit: Visit) -> web.StreamResponse:
        self._check_runs(viewer, self._mine(viewer, name))
        self._door.count(viewer.key)
        visit.endpoint = "run"
        given = {key.removeprefix(paths.INPUT): value.replace("\r\n", "\n") for key, value in fields.items() if key.startswith(paths.INPUT)}
        resolved = await asyncio.to_thread(web_values.find, self._sources, name, fields.get("at", ""))
        prompt = resolved.prompt
        for model in (prompt.model, *prompt.serve.fallback):
            self._door.check_price(viewer.key, model, self._core.directory.rates.find(model) is not None)
        visit.task, visit.prompt, visit.alias, visit.model = prompt.task, prompt.id, "", prompt.model
        inputs: Given = given if prompt.inputs else given.get(TEXT_INPUT, "")
        if _streams(request):
            return await self._streamed(request, resolved, inputs, visit)
        values = await asyncio.to_thread(web_values.try_it, self._sources, name, at=fields.get("at", ""), given=given)
        try:
            call = self._core.prepare(resolved, inputs, {"on_contract_break": "pass"})
            result = await answers.whole(self._core, call, visit)
            values = msgspec.structs.replace(values, answer=_answer(result))
        except PromptsmithError as error:
            values = msgspec.structs.replace(values, error=_noted(error, visit).text)
        return _page(tryout.html(values, viewer.frame), viewer)

    async def _streamed(self, request: web.Request, resolved: Resolved, inputs: Given, visit: Visit) -> web.StreamResponse:
        visit.stream = True
        response = web.StreamResponse(headers={"content-type": tryout.STREAM, **_GUARDS})
        await response.prepare(request)
        async with aclosing(self._lines(resolved, inputs, visit)) as lines:
            async for line in lines:
                if visit.first_byte is None:
                    visit.first_byte = visit.elapsed()
                await visit.wait(response.write(line))
        await response.write_eof()
        return response

    async def _lines(self, resolved: Resolved, inputs: Given, visit: Visit) -> AsyncGenerator[bytes, None]:
        try:
            call = self._core.prepare(resolved, inputs, {"on_contract_break": "pass"})
            async with aclosing(answers.pieces(self._core, call, visit)) as chunks:
                async for chunk in chunks:
                    if chunk.result is None:
                        yield tryout.piece(chunk.text)
                    else:
                        answers.note(chunk.result, visit)
                        yield tryout.ended(_answer(chunk.result))
        except (PromptsmithError, Late) as error:
            yield tryout.failed(_noted(error, visit).text)


def _noted(error: BaseException, visit: Visit) -> Refusal:
    """The refusal of an error, for the page, and for figures and log: the page itself is answered with status 200."""
    told = refusal(error)
    visit.code, visit.error = told.code, told.message
    return told


_GUARDS = {
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


def _told(error: PromptsmithError | Refusal, viewer: Viewer) -> Refusal:
    """The refusal of an error. A key for some tasks gets no hint about a name: it could be one of the others."""
    told = refusal(error)
    if isinstance(error, UnknownName) and viewer.key is not None and viewer.key.tasks:
        told.hint = ""
    return told


def _page_of(path: str) -> str:
    """The page whose form is sent to ``path``; empty for none."""
    what, _, name = path.removeprefix("/").partition("/")
    return "" if not name else paths.try_it(name) if what == "try" else paths.task(name)


def _fault(told: Refusal, viewer: Viewer, visit: Visit, back: str = "") -> web.Response:
    visit.code, visit.error = told.code, told.message
    fault = Fault(status=told.status, what=told.message, hint=told.hint, request=visit.id, back=back)
    return _page(doors.fault(fault, viewer.frame), viewer, status=told.status, retry_after=told.retry_after)


def _failed(told: Refusal, visit: Visit) -> web.Response:
    """The same for the script of the try-it page."""
    visit.code, visit.error = told.code, told.message
    return web.Response(status=told.status, body=tryout.failed(told.text), headers={"content-type": tryout.STREAM, **_GUARDS})


def _streams(request: web.Request) -> bool:
    return tryout.STREAM in request.headers.get("accept", "")


def _check_reads(viewer: Viewer) -> None:
    if viewer.key is not None and not allowed(viewer.key, "read"):
        raise Refusal(403, f"the key {viewer.key.name} may not look at pages", code="not_allowed", hint="it lacks the scope read")


def _check_all(viewer: Viewer, why: str) -> None:
    if viewer.key is not None and viewer.key.tasks:
        raise Refusal(403, f"the key {viewer.key.name} is for some tasks, and {why}", code="not_allowed")


def _page(html: str, viewer: Viewer, *, status: int = 200, retry_after: float | None = None) -> web.Response:
    rules = f"{policy(viewer.frame.nonce)}; frame-ancestors 'none'"
    headers = {"content-type": _HTML, "content-security-policy": rules, **_GUARDS}
    if retry_after is not None:
        headers["retry-after"] = str(max(0, math.ceil(retry_after)))
    # A damaged name may hold what UTF-8 has not.
    return web.Response(status=status, body=html.encode("utf-8", "replace"), headers=headers)


def _see_other(address: str) -> web.Response:
    return web.Response(status=303, headers={"location": address, **_GUARDS})


def _signed_out(secure: bool) -> web.Response:
    response = _see_other("/sign-in")
    response.del_cookie(COOKIE, path="/", httponly=True, samesite="Strict", secure=secure)
    return response


def _check_form(request: web.Request) -> None:
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        raise Refusal(415, "a form is sent as application/x-www-form-urlencoded", code="unsupported_type")


def _fields(text: str) -> dict[str, str]:
    try:
        return dict(parse_qsl(text, keep_blank_values=True, max_num_fields=200, errors="replace"))
    except ValueError:
        raise InputError("the form has too many fields") from None


def _mode(fields: dict[str, str]) -> Literal["canary", "shadow"]:
    return "shadow" if fields.get("mode") == "shadow" else "canary"


def _percent(fields: dict[str, str]) -> float:
    try:
        percent = float(fields.get("percent", ""))
    except ValueError:
        percent = 0.0
    if not 0 < percent <= 100:
        raise InputError("the share of a canary is more than 0 and at most 100 percent")
    return percent


def _answer(result: Result) -> Answer:
    usage = result.usage
    return Answer(
        text=result.text,
        prompt=result.prompt,
        model=result.model,
        source=answers.source_of(result),
        kept=result.ok,
        why="; ".join(result.reasons),
        seconds=result.latency,
        input=usage.input,
        output=usage.output,
        usd=result.cost,
    )
