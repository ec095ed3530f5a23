"""The pages over HTTP: who may see them, what the forms do, and all of it in a real browser."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import pytest
from click.testing import Result as Ended

from promptsmith.config import Project
from promptsmith.evals.report import Reports
from promptsmith.pages.service import tryout
from promptsmith.registry.canary_stores import open_canaries
from promptsmith.registry.lock import LockFile
from promptsmith.registry.opening import open_registry
from promptsmith.service.keys import KeyFile
from promptsmith.store.folder import open_store

from .databases import Server
from .made_shop import MODEL, PROMOTED, TASKS, another, compiled, in_production, judged, labelled, new_key, said, shop, slow_events, written
from .provider import Provider
from .serving import SECONDS, Answer, Canned, Say, Serving, eventually, made, project_at, serving, settings_of
from .talking import make_certificate
from .test_pages import browser
from .test_service_pages import CHECKS, Tabs

Invoke = Callable[..., Ended]
COOKIE = "promptsmith_session"
HTML = "text/html; charset=utf-8"
PAGES = ("/", "/try", "/reports", "/traces", "/costs", "/tasks/support/triage", "/provenance/support/triage", "/try/support/triage")


class Visitor:
    """Somebody with a browser's manners: a cookie that is kept, forms that are sent with their page's token."""

    def __init__(self, service: Serving, secret: str = "") -> None:
        self.service, self.cookie = service, ""
        if secret:
            assert self.sign_in(secret).status == 303

    def get(self, path: str, method: str = "GET", **headers: str) -> Answer:
        return self._call(method, path, None, headers)

    def post(self, path: str, fields: dict[str, str] | bytes, **headers: str) -> Answer:
        body = fields if isinstance(fields, bytes) else urlencode(fields, errors="surrogatepass").encode()
        return self._call("POST", path, body, {"content-type": "application/x-www-form-urlencoded", **headers})

    def send(self, path: str, fields: dict[str, str] | None = None, **headers: str) -> Answer:
        """A form with the token of this session."""
        return self.post(path, {"csrf": self.token(), **(fields or {})}, **headers)

    def sign_in(self, secret: str, leads_to: str = "/") -> Answer:
        return self.post("/sign-in", {"key": secret, "next": leads_to})

    def token(self) -> str:
        return tokens(self.get("/").body.decode())[0]

    def page(self, path: str) -> str:
        """A page that is shown."""
        answer = self.get(path, accept="text/html")
        assert (answer.status, answer.headers["content-type"]) == (200, HTML), answer.body.decode()
        return unescape(answer.body.decode())

    def _call(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> Answer:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.service.call(method, path, body, {**({"cookie": f"{COOKIE}={self.cookie}"} if self.cookie else {}), **named})
        found = re.match(rf"{COOKIE}=([^;]*)", answer.headers.get("set-cookie", ""))
        if found:
            self.cookie = found[1].strip('"')
        return answer


def tokens(html: str) -> list[str]:
    return re.findall(r'name="csrf" value="([^"]*)"', html)


def told(answer: Answer) -> str:
    """What an error page says."""
    assert answer.headers["content-type"] == HTML, answer.body.decode()
    return " ".join(unescape(re.sub("<[^>]+>", " ", answer.body.decode().partition("</header>")[2])).split())


class Shop(NamedTuple):
    """The shop's service with a lock file, and the secrets of its keys."""

    service: Serving
    provider: Provider
    slow: Canned
    secrets: dict[str, str]

    @property
    def project(self) -> Project:
        return self.service.project

    def visitor(self, key: str = "") -> Visitor:
        return Visitor(self.service, self.secrets[key] if key else "")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    root = tmp_path_factory.mktemp("web") / "lamps"
    root.mkdir()
    with Provider(said) as provider, Canned() as slow:
        more = f'[endpoints.slow]\nprotocol = "openai"\nbase_url = "{slow.url}/v1"\nforeign = false\n[endpoints.odd]\n'
        more += f'protocol = "openai"\nbase_url = "{slow.url}/v1"\n'
        project = shop(root, settings_of(provider, more=more))
        in_production(written(root, (root / "promptsmith.toml").read_text(), {"shop/odd": ODD}), "shop/odd")
        secrets = {
            "Ada": new_key(project, "Ada", "admin"),
            "Rita": new_key(project, "Rita", "read"),
            "cron": new_key(project, "cron", "run"),
            "tenant": new_key(project, "tenant", "read", "run", tasks=("shop/*",)),
            "spender": new_key(project, "spender", "read", "run", usd_per_day=1.0),
            "sipper": new_key(project, "sipper", "read", "run", tokens_per_day=1),
            "hasty": new_key(project, "hasty", "read", "run", rpm=1),
        }
        with serving(project) as service:
            for name in ("support/triage", "support/triage", "shop/order", "search/topic"):
                assert service.call("POST", f"/v1/run/{name}", {"input": "my parcel is late"}, bearer(secrets["cron"])).status == 200
            yield Shop(service, provider, slow, secrets)
            assert not service.trouble()


ODD = "task: Answer.\noutput: text\nmodels: {production: odd/model-of-no-price}\n"


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


# --- without keys -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def open_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A service on the loopback for which no key was ever made."""
    root = tmp_path_factory.mktemp("open") / "open"
    with Provider(said) as provider, serving(project_at(root, settings_of(provider), made("say"), made("team/deep"))) as service:
        yield service
        assert not service.trouble()


def test_without_keys_everybody_on_the_loopback_looks_and_nobody_moves_anything(open_site: Serving) -> None:
    visitor = Visitor(open_site)
    for path in ("/", "/try", "/reports", "/traces", "/costs", "/tasks/say", "/provenance/say", "/try/say", "/tasks/team/deep"):
        html = visitor.page(path)
        assert "Sign out" not in html
        assert not re.search('action="/(promote|rollback|canary)/', html)
    for path in ("/promote/say", "/rollback/say", "/canary/say"):
        answer = visitor.post(path, {"alias": "production", "do": "stop"})
        assert answer.status == 403
        assert "needs a key with the scope admin" in told(answer)


def test_without_keys_there_is_nothing_to_sign_in_with(open_site: Serving) -> None:
    answer = Visitor(open_site).sign_in("ps_" + "x" * 43)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    assert "no key was ever made here" in told(answer)


def test_without_keys_one_can_try_a_prompt(open_site: Serving) -> None:
    answer = Visitor(open_site).post("/try/say", {"at": "production", "input.input": "one\r\ntwo <b> é"})
    assert answer.status == 200
    assert "You said: one\ntwo <b> é" in unescape(answer.body.decode())


def test_a_page_of_another_site_may_send_no_form_and_no_other_name_leads_here(open_site: Serving) -> None:
    for origin in ("https://evil.example", "null", f"http://127.0.0.1:{open_site.port + 1}", "http://127.0.0.1.evil.example"):
        assert Visitor(open_site).post("/try/say", {"input.input": "x"}, origin=origin).status == 403, origin
    own = f"http://127.0.0.1:{open_site.port}"
    assert Visitor(open_site).post("/try/say", {"input.input": "x"}, origin=own).status == 200
    evil = {"host": "evil.example", "origin": "http://evil.example"}  # its name was pointed at this machine
    assert Visitor(open_site).post("/try/say", {"input.input": "x"}, **evil).status == 403


# --- signing in -------------------------------------------------------------------------------------------


ODD_ADDRESSES = ("/tasks/support/triage?from=a&to=b", "/tasks/no/such", "/reports/abc", "/reports?task=a%26b%2525")


@pytest.mark.parametrize("path", [*PAGES, *ODD_ADDRESSES])
def test_who_is_not_signed_in_is_led_to_the_sign_in_and_back(here: Shop, path: str) -> None:
    answer = here.visitor().get(path)
    assert answer.status == 303
    assert not answer.body
    to = urlsplit(answer.headers["location"])
    assert (to.path, parse_qs(to.query)["next"]) == ("/sign-in", [path])
    page = here.visitor().page(answer.headers["location"])
    [back] = re.findall(r'name="next" value="([^"]*)"', page)
    assert back == path
    visitor = here.visitor()
    assert visitor.sign_in(here.secrets["Ada"], back).headers["location"] == path


def test_forms_of_nobody_lead_to_the_sign_in(here: Shop) -> None:
    for path in ("/try/support/triage", "/promote/support/triage", "/rollback/support/triage", "/canary/support/triage", "/sign-out"):
        answer = here.visitor().post(path, {"csrf": "x"})
        assert (answer.status, answer.headers["location"]) == (303, "/sign-in")


@pytest.mark.parametrize("secret", ["", "wrong", "ps_" + "x" * 43, "ps_" + "é" * 43, "\x00", "Bearer x"])
def test_a_wrong_key_is_refused_in_words(here: Shop, secret: str) -> None:
    visitor = here.visitor()
    answer = visitor.sign_in(secret, "/costs")
    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    said = told(answer)
    assert "not known here" in said or "no key" in said
    assert re.findall(r'name="next" value="([^"]*)"', answer.body.decode()) == ["/costs"], "the next attempt still leads there"
    assert not secret or secret not in unescape(answer.body.decode()) or len(secret) < 9


@pytest.mark.parametrize(
    "leads_to",
    ["https://evil.example/", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/\t/evil.example",
     "evil.example", "/x\r\nset-cookie: a=b", " //evil.example", "http:evil.example", "", "/%0d%0aset-cookie:%20a=b", "/é"],
)  # fmt: skip
def test_a_sign_in_leads_to_no_other_site(here: Shop, leads_to: str) -> None:
    answer = here.visitor().sign_in(here.secrets["Rita"], leads_to)
    assert answer.status == 303
    location = answer.headers["location"]
    assert location == "/" or (location == leads_to and re.fullmatch(r"/[!-~]*", location) and not location.startswith("//"))
    assert answer.headers["set-cookie"].count("=") < 12
    assert "a" not in answer.headers


def test_the_cookie_is_for_this_site_alone_and_holds_no_key(here: Shop) -> None:
    answer = here.visitor().sign_in(here.secrets["Ada"])
    value, *flags = [part.strip() for part in answer.headers["set-cookie"].split(";")]
    assert sorted(flags) == ["HttpOnly", "Max-Age=43200", "Path=/", "SameSite=Strict"]
    assert here.secrets["Ada"] not in value
    visitor = here.visitor("Ada")
    for path in PAGES:
        html = visitor.page(path)
        assert not any(secret in html for secret in here.secrets.values()), path
        assert visitor.cookie not in html, path
    assert not any(secret in json.dumps(here.service.log()) for secret in (*here.secrets.values(), visitor.cookie))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate that no system trusts, for 127.0.0.1, and its key."""
    made = make_certificate(tmp_path_factory.mktemp("tls"))
    if made is None:
        pytest.skip("there is no openssl to make a certificate with")
    return made


def test_over_tls_the_cookie_is_secure(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    with Provider(said) as provider:
        names = f'tls_cert = "{certificate[0]}"\ntls_key = "{certificate[1]}"'
        project = project_at(tmp_path / "tls", settings_of(provider, service=names), made("say"))
        secret = new_key(project, "Ada", "admin")
        with serving(project) as service:
            assert service.url.startswith("https://")
            context = ssl.create_default_context(cafile=str(certificate[0]))
            with contextlib.closing(http.client.HTTPSConnection("127.0.0.1", service.port, timeout=SECONDS, context=context)) as line:
                body = urlencode({"key": secret, "next": "/"})
                line.request("POST", "/sign-in", body, {"content-type": "application/x-www-form-urlencoded"})
                response = line.getresponse()
                response.read()
                assert response.status == 303
                assert "Secure" in [part.strip() for part in response.getheader("set-cookie", "").split(";")]
                line.request("GET", "/", headers={"cookie": response.getheader("set-cookie", "").partition(";")[0]})
                page = line.getresponse()
                assert page.status == 200
                assert b"Sign out" in page.read()


def test_a_session_ends_when_its_key_is_revoked(here: Shop, invoke: Invoke) -> None:
    secret = new_key(here.project, "leaver", "admin")
    visitor = Visitor(here.service, secret)
    token = visitor.token()
    assert "leaver (admin)" in visitor.page("/")
    invoke("keys", "revoke", "leaver", project=here.project)
    assert visitor.get("/").headers["location"].startswith("/sign-in")
    assert visitor.post("/canary/support/triage", {"csrf": token, "do": "stop"}).headers["location"] == "/sign-in"
    streamed = visitor.post("/try/support/triage", {"csrf": token, "input.input": "x"}, accept=tryout.STREAM)
    assert (streamed.status, streamed.headers["content-type"]) == (401, tryout.STREAM)
    assert "the session is over" in json.loads(streamed.body)["error"]
    assert visitor.sign_in(secret).status == 401


def test_signing_out_takes_the_cookie_away(here: Shop) -> None:
    visitor = here.visitor("Rita")
    answer = visitor.send("/sign-out")
    assert (answer.status, answer.headers["location"], visitor.cookie) == (303, "/sign-in", "")
    assert "Max-Age=0" in answer.headers["set-cookie"]
    assert visitor.get("/").status == 303


@pytest.mark.parametrize("change", ["", "x", ".", "a.b.c.d", "é", "cut", "longer", "other digest", "later"])
def test_a_cookie_that_was_not_given_out_is_nobody(here: Shop, change: str) -> None:
    visitor = here.visitor("Rita")
    digest, ends, rest, signature = visitor.cookie.split(".")
    ada = next(key for key in KeyFile(here.project.root / "promptsmith.keys").keys() if key.name == "Ada")  # noqa: SIM118  # a method
    changed = {
        "cut": visitor.cookie[:-1],
        "longer": f"{visitor.cookie}x",
        "other digest": f"{ada.digest[:32]}.{ends}.{rest}.{signature}",
        "later": f"{digest}.{int(ends) + 1}.{rest}.{signature}",
    }
    answer = here.service.call("GET", "/", None, {"cookie": f"{COOKIE}={changed.get(change, change)}".encode().decode("latin-1")})
    assert answer.status == 303


def test_the_secret_of_the_sessions_is_the_owners_alone(here: Shop) -> None:
    here.visitor("Rita")
    path = here.project.cache / "service" / "session.key"
    assert path.stat().st_mode & 0o077 == 0


def test_a_session_holds_with_every_worker(tmp_path: Path) -> None:
    with Provider(said) as provider:
        project = project_at(tmp_path / "many", settings_of(provider), made("say"))
        secret = new_key(project, "Ada", "admin")
        with serving(project, "--workers", "2") as service:
            visitor = Visitor(service, secret)
            token = visitor.token()
            for _ in range(12):  # each on a connection of its own
                assert visitor.token() == token
                assert visitor.post("/try/say", {"csrf": token, "input.input": "x"}).status == 200
            assert not service.trouble()


# --- who may see what -------------------------------------------------------------------------------------


def test_a_key_that_runs_may_not_look(here: Shop) -> None:
    visitor = here.visitor()
    assert visitor.sign_in(here.secrets["cron"]).status == 303
    for path in PAGES:
        answer = visitor.get(path)
        assert answer.status == 403
        assert "the key cron may not look at pages" in told(answer)
        assert "support/nearest" not in answer.body.decode()
    token = tokens(visitor.get("/").body.decode())[0]  # to sign out
    for path in ("/try/support/triage", "/canary/support/triage"):
        assert visitor.post(path, {"csrf": token, "input.input": "x"}).status == 403


def test_a_key_that_reads_may_not_call_and_is_not_offered_to(here: Shop) -> None:
    visitor = here.visitor("Rita")
    token = visitor.token()
    assert "/try/" not in visitor.page("/try")
    before = len(here.provider.records)
    for answer in (visitor.get("/try/support/triage"), visitor.post("/try/support/triage", {"csrf": token, "input.input": "x"})):
        assert answer.status == 403
        assert "the key Rita may not call support/triage" in told(answer)
    assert len(here.provider.records) == before


def test_a_key_of_some_tasks_sees_nothing_of_the_others(here: Shop) -> None:
    visitor = here.visitor("tenant")
    mine, others = ["shop/letter", "shop/odd", "shop/order"], [name for name in TASKS if not name.startswith("shop/")]
    store = open_store(here.project)
    reports = [head.id for head in Reports(here.project.cache).heads()]
    foreign = [prompt_id for name in others for prompt_id in store.prompt_ids(task=name)]
    secret = [*others, *reports, *(one[:12] for one in foreign), "Plan the launch", "bedtime"]
    assert len(reports) == 4
    paths = ["/", "/try", "/reports", "/costs", "/traces", "/nothing", "/reports?task=support/triage", "/tasks/shop/nosuch",
             "/tasks/shop/triage", "/provenance/shop/nosuch",
             "/tasks/supprt/triage", *(f"/tasks/{name}" for name in mine), *(f"/try/{name}" for name in mine),
             *(f"/provenance/{name}" for name in mine), *(f"/traces/{run}" for run in store.runs()), "/traces/abcd1234"]  # fmt: skip
    for path in paths:
        page = unescape(visitor.get(path, accept="text/html").body.decode()).replace(path, "").replace("task 'support/triage'", "")
        assert not [word for word in secret if word in page], path
    overview = visitor.page("/")
    assert all(name in overview for name in mine)

    for kind in ("tasks", "provenance", "try"):
        for name in (*others, "no/such"):
            answer = visitor.get(f"/{kind}/{name}")
            assert answer.status == 404
            assert f"404 unknown task '{name}'" in told(answer)
    for name in others:
        assert visitor.send(f"/try/{name}", {"input.input": "x"}).status == 404
    for found in reports:
        answer, none = visitor.get(f"/reports/{found}"), visitor.get("/reports/abcdef012345")
        assert answer.status == none.status == 404
        assert re.sub(f"req_[0-9a-f]+|{found}", "", told(answer)) == re.sub("req_[0-9a-f]+|abcdef012345", "", told(none))
    for prompt_id in foreign:
        for path in ("/tasks/shop/order?at=", "/tasks/shop/order?to=latest&from=", "/try/shop/order?at=", "/provenance/shop/order?at="):
            assert visitor.get(path + prompt_id).status == 404
    assert visitor.get("/costs").status == visitor.get("/traces").status == 403
    for path in ("/metrics", "/v1/models", "/v1/models/support/triage", "/openapi.json"):
        body = here.service.call("GET", path, None, bearer(here.secrets["tenant"])).body.decode().replace("'support/triage'", "")
        assert not [word for word in secret if word in body], path


def test_the_lists_of_a_key_of_some_tasks_are_its_own(here: Shop) -> None:
    secret = new_key(here.project, "searcher", "read", tasks=("search/*",))
    page = Visitor(here.service, secret).page("/reports")
    [head] = [head for head in Reports(here.project.cache).heads() if head.task == "search/intent"]
    assert re.findall(r'href="/reports/([0-9a-f]+)"', page) == [head.id]
    assert "canary" in Visitor(here.service, secret).page("/")


def test_a_limit_holds_on_the_pages_too(here: Shop) -> None:
    """Requests a minute, and dollars: a call whose price nobody knows could not be counted."""
    visitor = here.visitor("spender")
    answer = visitor.send("/try/shop/odd", {"input.input": "x"})
    assert answer.status == 403
    assert "the price of odd/model-of-no-price is not known" in told(answer)
    hasty = here.visitor("hasty")
    assert hasty.send("/try/shop/order", {"input.input": "two of A1"}).status == 200
    refused = hasty.send("/try/shop/order", {"input.input": "two of A1"})
    assert refused.status == 429
    assert int(refused.headers["retry-after"]) > 0
    streamed = hasty.send("/try/shop/order", {"input.input": "two of A1"}, accept=tryout.STREAM)
    assert streamed.status == 429
    assert json.loads(streamed.body)["error"] in told(refused)


def test_an_answer_that_is_left_is_charged_all_the_same(here: Shop) -> None:
    """For what came of it until then."""
    held = Gated(slow_events("Thank you for asking"), 2)
    here.slow.says[:] = [Say(held, stream=True)]
    sipper = here.visitor("sipper")
    form = urlencode({"csrf": sipper.token(), "input.input": "Do you sell lamps?"}).encode()
    headers = {"cookie": f"{COOKIE}={sipper.cookie}", "content-type": "application/x-www-form-urlencoded", "accept": tryout.STREAM}
    gone = len([line for line in here.service.log() if line.get("client_gone")])
    with contextlib.closing(http.client.HTTPConnection(here.service.host, here.service.port, timeout=SECONDS)) as line:
        line.request("POST", "/try/support/reply", form, headers)
        answer = line.getresponse()
        assert (answer.status, b"Thank" in answer.readline()) == (200, True)
        answer.close()
    eventually(lambda: len([line for line in here.service.log() if line.get("client_gone")]) > gone, "the service has seen it leave")
    held.more.set()
    assert sipper.send("/try/shop/order", {"input.input": "two of A1"}).status == 429


# --- forms of other sites ---------------------------------------------------------------------------------


def test_a_form_needs_the_token_of_its_own_session(here: Shop) -> None:
    ada, rita, twin = here.visitor("Ada"), here.visitor("Rita"), here.visitor("Ada")
    assert ada.token() == ada.token()
    before = here.project.lock.read_bytes(), len(here.provider.records), canaries(here.project)
    for token in (None, "", "x", ada.token()[:-1], rita.token(), twin.token(), "é", ada.cookie):
        for path in ("/try/support/triage", "/promote/support/triage", "/rollback/support/triage", "/canary/support/triage", "/sign-out"):
            fields = {"input.input": "my parcel is late", "alias": "production", "do": "start", "percent": "10", "prompt": "latest"}
            answer = ada.post(path, fields if token is None else {**fields, "csrf": token})
            assert answer.status == 403
            assert "did not come from a page of this session" in told(answer)
    assert (here.project.lock.read_bytes(), len(here.provider.records), canaries(here.project)) == before
    assert ada.cookie, "nor was anybody signed out"


def test_a_form_of_another_site_is_refused_whatever_it_brings(here: Shop) -> None:
    ada = here.visitor("Ada")
    for origin in ("https://evil.example", "null", f"http://localhost:{here.service.port}"):
        for path in ("/sign-in", "/sign-out", "/canary/support/triage", "/try/support/triage"):
            assert ada.send(path, {"key": here.secrets["Rita"], "do": "stop"}, origin=origin).status == 403
        assert ada.get("/", origin=origin).status == 403


def canaries(project: Project) -> list[tuple[str, str]]:
    registry = open_registry(project)
    return [(one.task, one.state) for one in open_canaries(project, registry).all()]


# --- what every answer says -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/tasks/no/such", "/nothing/here"])
def test_a_page_is_kept_by_nobody_framed_by_nobody_and_runs_nothing_else(here: Shop, path: str) -> None:
    visitor = here.visitor("Ada")
    first, again = visitor.get(path, accept="text/html"), visitor.get(path, accept="text/html")
    for answer in (first, again):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        rules = dict(rule.strip().split(" ", 1) for rule in answer.headers["content-security-policy"].split(";"))
        assert (rules["default-src"], rules["frame-ancestors"], rules["base-uri"]) == ("'none'",) * 3
        nonce = rules["script-src"].removeprefix("'nonce-").removesuffix("'")
        assert len(nonce) >= 22
        assert set(re.findall(r'<(?:script|style)[^>]* nonce="([^"]*)"', answer.body.decode())) == {nonce}
        assert not re.search(r"<(script|style)(?![^>]*nonce=)", answer.body.decode())
    assert first.headers["content-security-policy"] != again.headers["content-security-policy"], "a nonce is for one answer"


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/tasks/no/such"])
def test_a_head_is_a_get_without_its_body(here: Shop, path: str) -> None:
    visitor = here.visitor("Ada")
    whole, head = visitor.get(path), visitor.get(path, "HEAD")
    assert (head.status, head.body) == (whole.status, b"")
    assert abs(int(head.headers["content-length"]) - len(whole.body)) < 64, "figures may have moved in between"
    assert {*head.headers} == {*whole.headers}


NAMES = [
    "..", "../../etc/passwd", "%2e%2e/%2e%2e/promptsmith.keys", "%00", "a%0d%0aset-cookie:x=y", "%ff%fe", "<script>alert(1)</script>",
    "%3Cimg%20src=x%20onerror=alert(1)%3E", "support/triage%2f..", "support%2ftriage%2f", "support/triage@production", "//", "x" * 5000,
    "%F0%9F%98%80", "support/triage/", "%2525", "{{7*7}}", "support//triage", "~root", "%C3%A9", "support/triage%40latest",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_a_hostile_name_is_text_on_an_error_page(here: Shop, name: str) -> None:
    visitor = here.visitor("Ada")
    for before in ("/tasks/", "/provenance/", "/try/", "/reports/", "/traces/"):
        answer = visitor.get(before + name, accept="text/html")
        assert answer.status in {400, 404}
        told(answer)
        assert "set-cookie" not in answer.headers
        for markup in ("<script>alert", "<img", "root:x:", '"digest"'):
            assert markup not in answer.body.decode().partition("<main")[2]
    for path in ("/try/", "/promote/", "/rollback/", "/canary/"):
        answer = visitor.send(path + name, {"alias": "production", "do": "stop", "input.input": "x"}, accept="text/html")
        assert 400 <= answer.status < 500
        told(answer)


@pytest.mark.parametrize("value", ["../x", "@", "a@b", "é", "\x00", "x" * 3000, "<b>", "\ud800", "zzzz", "ab", ""])
def test_a_hostile_alias_or_id_is_refused_in_words(here: Shop, value: str) -> None:
    visitor = here.visitor("Ada")
    before = here.project.lock.read_bytes(), canaries(here.project)
    for field in ("at", "from"):
        query = urlencode({field: value, "to": value}, errors="surrogatepass")
        answer = visitor.get(f"/tasks/support/triage?{query}")
        assert answer.status in {200, 400, 404} if not value else answer.status in {400, 404}
        assert "<b>" not in answer.body.decode().partition("<main")[2]
    for path, fields in {
        "/canary/support/triage": {"do": "start", "percent": "5", "prompt": value, "alias": "production"},
        "/canary/support/nearest": {"do": "start", "percent": "5", "prompt": "latest", "alias": value},
        "/canary/support/nearest?": {"do": "stop", "alias": value},
        "/promote/support/triage": {"prompt": value, "alias": value},
        "/rollback/support/triage": {"alias": value},
        "/try/shop/letter": {"at": value, "input.about": "x"} if value else {"at": "zzzz"},
    }.items():
        answer = visitor.send(path, fields)
        assert 400 <= answer.status < 500, path
        told(answer)
    assert (here.project.lock.read_bytes(), canaries(here.project)) == before


@pytest.mark.parametrize("percent", ["0", "-1", "101", "nan", "inf", "", "ten", "1e400"])
def test_a_share_that_is_none_starts_nothing(here: Shop, percent: str) -> None:
    answer = here.visitor("Ada").send("/canary/support/triage", {"do": "start", "percent": percent, "prompt": "latest"})
    assert answer.status == 400
    assert "more than 0 and at most 100 percent" in told(answer)
    assert here.project.root.joinpath("promptsmith.lock").exists()
    assert ("support/triage", "running") not in canaries(here.project)


def test_an_error_is_a_page_for_a_browser_and_json_for_a_program(here: Shop) -> None:
    visitor = here.visitor("Ada")
    for path in ("/nothing", "/tasks", "/tasks/", "/promote/support/triage", "/sign-out", "/v1/nothing"):
        answer = visitor.get(path, accept="text/html,application/xhtml+xml,*/*;q=0.8")
        assert answer.status == 404
        assert f"nothing is at {path}" in told(answer)
        assert visitor.get(path, accept="*/*").json["error"]["message"] == f"nothing is at {path}; GET /openapi.json lists what is here"
    assert "req_" in told(visitor.get("/tasks/no/such")), "by which the log knows it"


def test_forms_that_are_none_are_refused_with_a_page(here: Shop) -> None:
    visitor = here.visitor("Ada")
    token = visitor.token()
    many = urlencode([("csrf", token), *((f"f{number}", "x") for number in range(10_000))]).encode()
    broken = {
        400: [many, b"&" * 100_000 + b"a=1" * 0 + b"&a=" * 10_000],
        413: [b"input.input=" + b"x" * (5 * 1024 * 1024)],
        403: [b"\xff\xfe\x00", b"csrf=%ff%fe", b"", b"csrf", b"=" * 100, b"csrf=\xed\xa0\x80"],
    }
    for status, bodies in broken.items():
        for body in bodies:
            answer = visitor.post("/try/support/triage", body)
            assert answer.status == status, body[:40]
            told(answer)
    for kind in ("application/json", "multipart/form-data; boundary=x", "text/plain", ""):
        assert visitor.post("/sign-out", {"csrf": token}, content_type=kind).status == 415
    query = urlencode([(f"f{number}", "x") for number in range(900)])
    assert "too many fields" in told(visitor.get(f"/costs?{query}"))


def test_text_that_is_no_utf8_is_a_text_with_holes(here: Shop) -> None:
    visitor = here.visitor("Ada")
    body = urlencode({"csrf": visitor.token()}).encode() + b"&input.input=my parcel is late %ff\xfe"
    answer = visitor.post("/try/support/triage", body)
    assert answer.status == 200
    asked = here.provider.records.last.json["messages"][-1]["content"]
    assert "my parcel is late \ufffd\ufffd" in asked


def test_a_link_can_put_no_words_on_a_page(here: Shop) -> None:
    visitor = here.visitor("Ada")
    for query in ("done=Call+this+number", "done=Call+this+number&seal=x", f"done=Call+this+number&seal={visitor.token()}"):
        assert "Call this number" not in visitor.page(f"/tasks/support/triage?{query}").partition("<main")[2]


def test_keys_that_can_not_be_read_are_told_on_a_page(tmp_path: Path) -> None:
    with Provider(said) as provider:
        project = project_at(tmp_path / "damaged", settings_of(provider), made("say"))
        secret = new_key(project, "Ada", "admin")
        with serving(project) as service:
            visitor = Visitor(service, secret)
            with (project.root / "promptsmith.keys").open("a") as file:
                file.write("no key\n")
            answer = visitor.get("/", accept="text/html")
            assert answer.status >= 400
            assert "promptsmith.keys:2" in told(answer)
            assert secret not in answer.body.decode()


# --- acting, with a lock file -----------------------------------------------------------------------------


def test_with_a_lock_file_a_promotion_is_a_command_to_run(here: Shop) -> None:
    visitor = here.visitor("Ada")
    before = here.project.lock.read_bytes()
    newest = open_store(here.project).latest("support/triage")
    assert newest is not None
    page = visitor.page(f"/tasks/support/triage?at={newest}")
    assert f"promptsmith promote support/triage@{newest[:12]} --to production" in page
    assert not re.search('action="/(promote|rollback)/', page)
    promoted = told(visitor.send("/promote/support/triage", {"prompt": newest, "alias": "production"}))
    assert f"run promptsmith promote support/triage@{newest} --to production" in promoted
    assert "never written by the service" in promoted
    assert "run promptsmith rollback support/triage@production" in told(visitor.send("/rollback/support/triage", {"alias": "production"}))
    assert here.project.lock.read_bytes() == before


def test_a_canary_is_started_and_stopped_from_the_page(here: Shop, invoke: Invoke) -> None:
    ada = here.visitor("Ada")
    lock = here.project.lock.read_bytes()
    newest = open_store(here.project).latest("support/triage")
    assert newest is not None
    start = {"do": "start", "prompt": newest, "alias": "production", "percent": "12.5", "mode": "canary", "why": "it is shorter"}
    for other in ("Rita", "tenant"):
        answer = here.visitor(other).send("/canary/support/triage", start)
        assert answer.status == 403
        assert "scope admin" in told(answer)
    assert ("support/triage", "running") not in canaries(here.project)

    answer = ada.send("/canary/support/triage", start)
    assert answer.status == 303
    page = ada.page(answer.headers["location"])
    assert f"{newest[:12]} answers 12.5 % of the calls of support/triage@production" in page
    assert "12.5 % of the callers" in page
    status = json.loads(invoke("status", "--json", project=here.project).output)
    assert "running" in json.dumps(status)
    assert newest[:12] in invoke("status", project=here.project).output
    arms = {run(here, "support/triage", f"caller {number}").headers["x-promptsmith-arm"] for number in range(60)}
    assert arms == {"candidate", "incumbent"}

    again = ada.send("/canary/support/triage", {**start, "prompt": in_lock(here.project, "support/triage")})
    assert 400 <= again.status < 500
    told(again)

    stopped = ada.send("/canary/support/triage", {"do": "stop", "alias": "production", "why": "enough"})
    assert stopped.status == 303
    assert "get the incumbent" in ada.page(stopped.headers["location"])
    assert ("support/triage", "stopped") in canaries(here.project)
    assert "ended by Ada: enough (on the service's pages)" in " ".join(invoke("status", project=here.project).output.split())
    assert "x-promptsmith-arm" not in run(here, "support/triage", "caller 1").headers
    assert here.project.lock.read_bytes() == lock


def run(here: Shop, task: str, sticky: str) -> Answer:
    headers = {**bearer(here.secrets["cron"]), "x-promptsmith-sticky": sticky}
    return here.service.call("POST", f"/v1/run/{task}", {"input": "my parcel is late"}, headers)


def in_lock(project: Project, task: str) -> str:
    found = LockFile(project.lock).resolve(task, "production")
    assert found is not None
    return found


def test_a_canary_needs_the_same_proof_as_a_promotion(here: Shop) -> None:
    prompt = another(here.project, "support/nearest", "Nobody has judged it.")
    fields = {"do": "start", "prompt": prompt.id, "alias": "production", "percent": "10"}
    answer = here.visitor("Ada").send("/canary/support/nearest", fields)
    assert answer.status == 400
    assert f"no eval of prompt {prompt.id[:12]} as things are now is kept here" in told(answer)
    assert f"run promptsmith eval support/nearest@{prompt.id[:12]}" in told(answer)
    assert ("support/nearest", "running") not in canaries(here.project)


# --- acting, with a database ------------------------------------------------------------------------------


class Central(NamedTuple):
    service: Serving
    ada: Visitor


@pytest.fixture(scope="module")
def central(postgres: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Central]:
    """A service whose registry is a PostgreSQL, with a task for each test."""
    root = tmp_path_factory.mktemp("central") / "central"
    root.mkdir()
    with Provider(said) as provider:
        url = postgres.url(postgres.new_database())
        tasks = {name: labelled(f"Sort the messages of {name}.", MODEL) for name in ("proven", "unproven", "worse", "moved")}
        project = written(root, f'registry = "{url}"\n{settings_of(provider)}', tasks)
        for name in tasks:
            in_production(project, name)
        secret = new_key(project, "Ada", "admin")
        with serving(project) as service:
            yield Central(service, Visitor(service, secret))
            assert not service.trouble()


def seen(html: str) -> dict[str, str]:
    """What the forms of a page say was named when it was made."""
    return dict(re.findall(r'name="(expected\.[^"]+)" value="([0-9a-f]+)"', html))


def named(central: Central, task: str) -> str | None:
    registry = open_registry(central.service.project, patient=True)
    try:
        return registry.resolve(task, "production")
    finally:
        registry.close()


def test_a_judged_prompt_is_promoted_from_the_page_and_rolled_back(central: Central) -> None:
    project, ada = central.service.project, central.ada
    first = named(central, "proven")
    prompt = another(project, "proven", "Say the label alone.")
    report = judged(project, prompt)
    assert report.head.judgement.verdict == "promote"
    page = ada.page(f"/tasks/proven?at={prompt.id}")
    assert 'action="/promote/proven"' in page
    assert seen(page) == {"expected.production": first}
    answer = ada.send("/promote/proven", {"prompt": prompt.id, "alias": "production", "why": "it is as good", **seen(page)})
    assert answer.status == 303, told(answer)
    assert named(central, "proven") == prompt.id
    eventually(lambda: f"<code>{prompt.id[:12]}</code>" in ada.page(answer.headers["location"]), "the page shows it")
    page = ada.page(answer.headers["location"])
    assert f"proven@production is now {prompt.id[:12]}" in page
    assert "it is as good (on the service's pages)" in page
    move = open_registry(project, patient=True).history("proven")[-1]
    assert (move.to, move.forced, move.who) == (prompt.id, False, "Ada")
    assert move.receipt

    back = ada.send("/rollback/proven", {"alias": "production", "why": "second thoughts", **seen(ada.page("/tasks/proven"))})
    assert back.status == 303
    assert named(central, "proven") == first
    assert f"proven@production is back at {str(first)[:12]}" in ada.page(back.headers["location"])


def test_a_prompt_that_nobody_has_judged_is_not_promoted(central: Central) -> None:
    project, ada = central.service.project, central.ada
    first = named(central, "unproven")
    prompt = another(project, "unproven", "Say the label alone.")
    fields = {"prompt": prompt.id, "alias": "production", "why": "I am sure", **seen(ada.page("/tasks/unproven"))}
    answer = ada.send("/promote/unproven", fields)
    assert answer.status == 400
    assert f"no eval of prompt {prompt.id[:12]} as things are now is kept here" in told(answer)
    assert 'href="/tasks/unproven"' in answer.body.decode(), "the way back"
    assert named(central, "unproven") == first
    assert ada.send("/promote/unproven", {**fields, "force": "1", "forced": "true"}).status == 400
    assert named(central, "unproven") == first
    free = ada.send("/promote/unproven", {**fields, "alias": "candidate"})  # an alias that is not protected
    assert free.status == 303, told(free)


def test_a_prompt_that_is_worse_is_not_promoted(central: Central) -> None:
    project, ada = central.service.project, central.ada
    first = named(central, "worse")
    prompt = another(project, "worse", "Guess.")
    report = judged(project, prompt)
    assert report.head.judgement.verdict == "reject"
    page = ada.page(f"/tasks/worse?at={prompt.id}")
    for path, fields in {"/promote/worse": {}, "/canary/worse": {"do": "start", "percent": "10"}}.items():
        answer = ada.send(path, {"prompt": prompt.id, "alias": "production", "why": "please", **fields, **seen(page)})
        assert answer.status == 409
        assert prompt.id[:12] in told(answer)
        assert report.head.id in told(answer), "whoever wonders why can read it"
    assert named(central, "worse") == first
    assert not open_canaries(project, open_registry(project, patient=True)).active("worse", "production")


def test_a_page_that_is_out_of_date_moves_nothing(central: Central) -> None:
    project, ada = central.service.project, central.ada
    prompt = another(project, "moved", "Say the label alone.")
    judged(project, prompt)
    old = seen(ada.page("/tasks/moved"))
    later = in_production(project, "moved")  # somebody else was faster
    assert later.id == prompt.id
    third = another(project, "moved", "And be quick.")
    judged(project, third)
    for path, fields in {"/promote/moved": {"prompt": third.id}, "/rollback/moved": {}}.items():
        eventually(lambda: prompt.id[:12] in ada.page("/tasks/moved").partition("<h2")[0], "the service knows of the move")
        answer = ada.send(path, {"alias": "production", **fields, **old})
        assert answer.status in {409, 503}
        assert f"was moved since the page was made: it is {prompt.id[:12]} now" in told(answer)
        assert "look again" in told(answer)
        assert named(central, "moved") == prompt.id
    assert answer.status == 409, "a conflict is no outage"


# --- in a browser -----------------------------------------------------------------------------------------


class Gated(Sequence[bytes]):
    """Pieces of an answer that come when they are let: all up to ``after``, the rest once ``more`` is set."""

    def __init__(self, pieces: list[bytes], after: int) -> None:
        self._pieces, self._after, self.more = pieces, after, threading.Event()

    def __len__(self) -> int:
        return len(self._pieces)

    def __getitem__(self, place: Any) -> Any:
        return self._pieces[place]

    def __iter__(self) -> Iterator[bytes]:
        for place, piece in enumerate(self._pieces):
            if place == self._after:
                self.more.wait(SECONDS)
            yield piece


@pytest.fixture
def tabs(request: pytest.FixtureRequest) -> Iterator[Tabs]:
    """Tabs that share nothing; what they say on the console, ask elsewhere for or pop up fails the test."""
    found = Tabs(request.getfixturevalue(browser.__name__))
    yield found
    for tab in found.opened:
        tab.close()
    assert found.trouble == []


def enter(tabs: Tabs, here: Shop, path: str = "/", key: str = "Ada", **options: Any) -> Any:
    """A tab of somebody who has signed in by keyboard alone."""
    tab = tabs(here.service.url + path, **options)
    assert tab.url.startswith(f"{here.service.url}/sign-in")
    for _ in range(30):
        tab.keyboard.press("Tab")
        if tab.evaluate("document.activeElement.id") == "key":
            break
    tab.keyboard.type(here.secrets[key])
    tab.keyboard.press("Enter")
    tab.wait_for_url(here.service.url + path)
    return tab


def follow(tab: Any, name: str) -> None:
    """Goes with the keyboard to the link or button of this name, and presses it."""
    tab.get_by_role("main").get_by_text(name, exact=True).first.evaluate("one => one.closest('a, button').focus()")
    tab.keyboard.press("Enter")


def test_by_keyboard_from_the_sign_in_to_the_difference_of_two_versions(here: Shop, tabs: Tabs) -> None:
    tab = enter(tabs, here)
    assert tab.get_by_role("heading", level=1).inner_text() == "Overview"
    assert set(tab.locator("th[scope=row] a").all_inner_texts()) == {*TASKS, "shop/odd"}
    follow(tab, "support/triage")
    tab.wait_for_url("**/tasks/support/triage")
    store = open_store(here.project)
    for field, prompt_id in {"from": in_lock(here.project, "support/triage"), "to": str(store.latest("support/triage"))}.items():
        tab.locator(f"select[name={field}]").focus()
        tab.keyboard.type(prompt_id[:12])
    follow(tab, "Compare")
    tab.wait_for_url("**from=*")
    difference = tab.get_by_role("region", name=re.compile("^From"))
    assert "Answer with the label alone" in " ".join(difference.locator("ins").all_inner_texts())
    assert difference.locator("del").count() == 0
    follow(tab, "Try it")
    tab.wait_for_url("**/try/support/triage?at=*")


def test_a_real_answer_streams_into_the_page_and_can_be_stopped(here: Shop, tabs: Tabs) -> None:
    from playwright.sync_api import expect

    first, second = (Gated(slow_events("Thank you for asking"), 2) for _ in range(2))
    here.slow.says[:] = [Say(first, stream=True), Say(second, stream=True)]
    tab = enter(tabs, here, "/try/support/reply")
    tab.get_by_label("input").fill("Do you sell <b>lamps</b>?")
    follow(tab, "Ask")
    answer, state = tab.locator(".answer pre"), tab.get_by_role("status")
    expect(answer).to_have_text("Thank you")
    expect(state).to_have_text("answering")
    first.more.set()
    expect(state).to_have_text("complete")
    expect(answer).to_have_text("Thank you for asking")
    assert {"model", "tokens", "cost", "contract"} <= set(tab.locator(".answer dt").all_inner_texts())
    assert "40 in, 9 out" in tab.locator(".answer").inner_text()
    assert json.loads(here.slow.bodies[-1])["messages"][-1]["content"].count("Do you sell <b>lamps</b>?") == 1

    follow(tab, "Ask")
    expect(answer).to_have_text("Thank you")
    follow(tab, "Stop")
    expect(state).to_have_text("stopped")
    eventually(lambda: any(line.get("client_gone") for line in here.service.log()), "the service ends its call")
    second.more.set()


def test_what_is_wrong_is_said_beside_the_form(here: Shop, tabs: Tabs) -> None:
    from playwright.sync_api import expect

    here.slow.says[:] = [Say([b'{"error": {"message": "the model is on holiday"}}'], status=400)]
    tab = enter(tabs, here, "/try/support/reply")
    tab.get_by_label("input").fill("Hello")
    follow(tab, "Ask")
    expect(tab.get_by_role("status")).to_have_text("failed")
    expect(tab.get_by_role("alert")).to_contain_text("the model is on holiday")
    assert tab.get_by_label("input").input_value() == "Hello"


def test_without_javascript_everything_works(here: Shop, tabs: Tabs) -> None:
    tab = tabs(f"{here.service.url}/try/support/triage", java_script_enabled=False)
    tab.get_by_label("Key", exact=True).fill(here.secrets["Ada"])
    tab.get_by_role("button", name="Sign in").click()
    assert tab.url == f"{here.service.url}/try/support/triage"
    assert not tab.get_by_role("button", name="Stop").is_visible()
    tab.get_by_label("input").fill("my parcel is late")
    tab.get_by_role("button", name="Ask").click()
    assert tab.locator(".answer pre").inner_text() == "delivery"
    assert tab.get_by_role("status").inner_text() == "complete"
    tab.get_by_role("button", name="Sign out").click()
    assert tab.url == f"{here.service.url}/sign-in"


SHOWN = {
    "overview": "/", "task": "/tasks/support/triage", "canary": "/tasks/search/topic", "bare": "/tasks/drafts/idea",
    "inputs": "/tasks/shop/letter",
    "provenance": "/provenance/support/triage", "reports": "/reports", "traces": "/traces", "costs": "/costs", "try": "/try/shop/letter",
    "tasks": "/try", "wrong": "/tasks/no/such",
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_real_pages_can_be_used_by_all(here: Shop, tabs: Tabs, scheme: str) -> None:
    """With what a project holds: names, landmarks, contrast, sizes; at the width of a phone and of a desk."""
    tab = enter(tabs, here, color_scheme=scheme, viewport={"width": 1280, "height": 800})
    report = Reports(here.project.cache).heads()[-1].id
    run = open_store(here.project).runs()[0]
    for name, path in {**SHOWN, "report": f"/reports/{report}", "trace": f"/traces/{run}"}.items():
        tab.goto(here.service.url + path)
        for width in (1280, 360):
            tab.set_viewport_size({"width": width, "height": 800})
            assert tab.evaluate("document.documentElement.scrollWidth") <= width, name
            if name not in {"report", "trace", "provenance"}:
                assert tab.evaluate(CHECKS) == [], name
    [line] = tabs.trouble[:]  # the one page that is not there
    assert "404" in line
    tabs.trouble.clear()


def test_a_sign_in_with_a_wrong_key_says_so(here: Shop, tabs: Tabs) -> None:
    tab = tabs(f"{here.service.url}/costs")
    tab.get_by_label("Key", exact=True).fill("ps_wrong")
    tab.keyboard.press("Enter")
    alert = tab.get_by_role("alert")
    alert.wait_for()
    assert "not known here" in alert.inner_text()
    assert tab.get_by_label("Key", exact=True).input_value() == ""
    assert "401" in tabs.trouble.pop()


def test_the_navigation_says_where_one_is(here: Shop) -> None:
    visitor = here.visitor("Ada")
    report, plan = Reports(here.project.cache).heads()[0].id, open_store(here.project).runs()[0]
    places = {"/provenance/support/triage": "/", f"/reports/{report}": "/reports", f"/traces/{plan}": "/traces", "/try/shop/order": "/try"}
    for path, place in {**places, **{path: path for path in ("/", "/try", "/reports", "/traces", "/costs")}}.items():
        assert re.findall(r'href="([^"]*)" aria-current="page"', visitor.page(path)) == [place], path


def test_an_answer_that_breaks_its_contract_is_no_adherent_one(here: Shop) -> None:
    """By whichever way it was asked for: as the provider's bytes, by the runtime, or on the page."""
    visitor = here.visitor("Ada")

    def checked() -> tuple[int, int]:
        found = re.search(r"<dt>adherence</dt><dd>([0-9.]+) % of ([0-9]+)</dd>", visitor.page("/tasks/support/triage"))
        assert found is not None
        return round(float(found[1]) * int(found[2]) / 100), int(found[2])

    kept, judged = checked()
    key = bearer(here.secrets["cron"])
    chat = {"model": "support/triage", "messages": [{"role": "user", "content": "nonsense"}]}
    answers = [
        here.service.call("POST", "/v1/run/support/triage", {"input": "nonsense"}, key),
        here.service.call("POST", "/v1/chat/completions", chat, key),
        here.service.call("POST", "/v1/messages", {**chat, "max_tokens": 60}, key),
    ]
    assert [answer.status for answer in answers] == [502, 502, 502]
    assert [answer.headers.get("x-promptsmith-adherent") for answer in answers] == ["false"] * 3
    tried = visitor.send("/try/support/triage", {"input.input": "nonsense"})
    assert "You said: nonsense" in tried.body.decode()
    assert "broken" in told(tried)
    assert checked() == (kept, judged + 4)


def test_every_task_that_is_served_can_be_opened(here: Shop) -> None:
    visitor = here.visitor("Ada")
    for name in PROMOTED:
        assert f"<h1>{name}</h1>" in visitor.page(f"/tasks/{quote(name)}")
    assert compiled(here.project, "drafts/idea").id[:12] in visitor.page("/tasks/drafts/idea")
