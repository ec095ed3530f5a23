"""A client's call to a model of its own protocol: the prompt goes in, the provider's bytes come out as they are."""

from __future__ import annotations

import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping

from ..catalog.tokens import estimate
from ..chat import Reply, Turn, Usage
from ..contract import shorten
from ..errors import ContractError, PromptsmithError, ProviderError
from ..models.limits import input_tokens
from ..models.waiting import Late, Span
from ..models.wire import CachePlan, StreamDecoder
from ..models.wrappers import ledger_row, may_have_counted
from ..store import Store
from .serving import Served
from .visit import Visit

_PASSED = ("x-request-id", "request-id", "retry-after", "openai-processing-ms", "anthropic-organization-id")
_LIMITS = ("x-ratelimit-", "anthropic-ratelimit-")


class Relay:
    """The calls of one worker."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def whole(self, served: Served, turns: tuple[Turn, ...], visit: Visit) -> tuple[bytes, dict[str, str]]:
        """The provider's body, and the headers of its own that go on. Raises :class:`PromptsmithError` and :class:`Late`."""
        upstream = served.upstream
        assert upstream is not None
        body, plan, tokens = *served.body(turns, stream=False), served.tokens(turns)
        began = time.perf_counter()
        trial = upstream.trial()
        try:
            while True:
                visit.attempts += 1
                try:
                    answer = await upstream.post(body, trial.span, tokens)
                    break
                except (PromptsmithError, Late) as error:
                    await trial.again(error)
            visit.waited += time.perf_counter() - began
            reply = upstream.codec.reply(answer.data, served.asked, request_id=upstream.codec.request_id(answer.headers))
        except BaseException as error:
            self._failed(served, turns, visit, plan, began, error)
            raise
        upstream.told(tokens, reply.usage)
        self._judge(served, turns, reply, visit, plan, began)
        self._check(served, reply, visit)
        return answer.data, passed(answer.headers)

    async def stream(self, served: Served, turns: tuple[Turn, ...], visit: Visit, *, usage: bool) -> AsyncGenerator[bytes, None]:
        """The provider's events as they come; the last one only when the call stands in the ledger.

        The first thing yielded is empty: from then on the answer has begun, and what goes wrong can only be told as an
        event. ``usage``: the client asked for the event with the usage. Raises as :meth:`whole`, and afterwards too.
        """
        upstream = served.upstream
        assert upstream is not None
        body, plan, tokens = *served.body(turns, stream=True, usage=usage), served.tokens(turns)
        began, before = time.perf_counter(), visit.waited
        trial = upstream.trial()
        while True:
            visit.attempts += 1
            begun = False
            tail: _Tail | None = None
            try:
                async with upstream.stream(body, trial.span, tokens) as (answer, first):
                    visit.waited = before + time.perf_counter() - began
                    visit.upstream_id = upstream.codec.request_id(answer.headers)
                    tail = _Tail(upstream.codec.stream(served.asked, request_id=visit.upstream_id), drop_usage=not usage)
                    shown = tail.feed(first)
                    begun, visit.source = True, "model"
                    yield b""
                    while not tail.done:
                        if shown:
                            yield shown
                        shown = tail.feed(piece) if (piece := await _next(answer.pieces, visit, trial.span)) else b""
                        if not piece:
                            break
                    reply = tail.close()
            except (PromptsmithError, Late) as error:
                if not begun:
                    try:
                        await trial.again(error)
                    except BaseException as last:
                        self._failed(served, turns, visit, plan, began, last)
                        raise
                    continue
                self._failed(served, turns, visit, plan, began, error, tail)
                raise
            except BaseException as error:
                self._failed(served, turns, visit, plan, began, error, tail)
                raise
            break
        upstream.told(tokens, reply.usage)
        self._judge(served, turns, reply, visit, plan, began)
        try:
            self._check(served, reply, visit)
        except ContractError:
            if shown:
                yield shown
            raise
        visit.complete = True
        yield shown + visit.comment() + tail.last

    def _judge(self, served: Served, turns: tuple[Turn, ...], reply: Reply, visit: Visit, plan: CachePlan, began: float) -> None:
        """Writes the ledger's row, and into ``visit`` what the reply came to."""
        assert served.upstream is not None
        visit.usage, visit.stop, visit.source = reply.usage, reply.stop, "model"
        visit.cost = served.upstream.cost(reply.usage, plan)
        if not reply.usage.counted:
            self._guess(served, turns, reply.text, visit, plan)
        visit.upstream_id = reply.request_id
        kept = Reply(text="", model=reply.model, stop=reply.stop, usage=reply.usage, cost=visit.cost, attempts=visit.attempts)
        self._write(served, visit, began, kept)

    def _write(self, served: Served, visit: Visit, began: float, reply: Reply | None, error: BaseException | None = None) -> None:
        """The ledger's row of a call; ``error`` is what one without a reply ended with."""
        assert served.upstream is not None
        row = ledger_row(
            reply,
            task=visit.task,
            prompt=served.prompt.id,
            stage="run",
            model=served.upstream.name,
            latency=time.perf_counter() - began,
            source="model",
            error=error,
        )
        self._store.ledger.append(row)

    @staticmethod
    def _check(served: Served, reply: Reply, visit: Visit) -> None:
        """Raises :class:`ContractError` for a whole answer that breaks the contract and may not pass.

        One that stopped early (length, refusal, filter) says so itself, in its own protocol's words.
        """
        if reply.stop != "end":
            visit.adherent = False
            return
        verdict = served.handle.validate(reply.text)
        visit.adherent = verdict.ok
        if verdict.reasons and served.strict:
            raise ContractError(
                f"the answer of {reply.model} to {served.prompt.task} breaks the contract: {'; '.join(verdict.reasons)}",
                reasons=verdict.reasons,
                text=reply.text,
                hint=f"it answered {shorten(reply.text, 200)}",
            )

    @staticmethod
    def _guess(served: Served, turns: tuple[Turn, ...], said: str, visit: Visit, plan: CachePlan) -> None:
        """Writes down about what a call took that the provider did not count, or did not come to count."""
        assert served.upstream is not None
        usage = Usage(input=input_tokens(served.request(turns)), output=estimate(said))
        visit.guess, visit.guess_cost = usage.input + usage.output, served.upstream.cost(usage, plan) or 0.0

    def _failed(
        self,
        served: Served,
        turns: tuple[Turn, ...],
        visit: Visit,
        plan: CachePlan,
        began: float,
        error: BaseException,
        tail: _Tail | None = None,
    ) -> None:
        """A row for a call that came to nothing, or that its client left; what came until then was taken all the same."""
        visit.waited = max(visit.waited, time.perf_counter() - began)
        self._write(served, visit, began, None, error)
        if isinstance(error, ProviderError):
            visit.upstream_id = error.request_id
        visit.source = "model"
        visit.cost = None if getattr(error, "counted", True) else 0.0
        if may_have_counted(error):
            self._guess(served, turns, tail.so_far if tail is not None else "", visit, plan)


async def _next(pieces: AsyncIterator[bytes], visit: Visit, span: Span) -> bytes:
    """The next of ``pieces``, empty behind the last. Raises :class:`Late` when they take longer in all than the ``span``."""
    began = time.perf_counter()
    piece = await anext(pieces, b"")
    visit.waited += time.perf_counter() - began
    if piece and span.left() == 0.0:
        raise Late(visit.upstream_id)
    return piece


def passed(headers: Mapping[str, str]) -> dict[str, str]:
    """What a provider's headers say to the client, too."""
    lower = ((name.lower(), value) for name, value in headers.items())
    return {name: value for name, value in lower if name in _PASSED or name.startswith(_LIMITS)}


class _Tail:
    """A stream on its way to the client: read for its text and usage, passed on event by event, its last event kept back."""

    def __init__(self, decoder: StreamDecoder, *, drop_usage: bool) -> None:
        self._decoder = decoder
        self._drop_usage = drop_usage
        self._rest = bytearray()
        self.last = b""
        """The event that ends the reply; whoever gets it knows that the reply is whole."""

    @property
    def done(self) -> bool:
        return self._decoder.done

    @property
    def so_far(self) -> str:
        """The text that came until now."""
        return self._decoder.so_far().text

    def feed(self, piece: bytes) -> bytes:
        """What of the stream can be passed on now. Raises :class:`ProviderError` for what is no event."""
        rest = self._rest
        start = max(0, len(rest) - 4)
        rest += piece
        end = _last_end(rest, start)
        if end <= 0:
            return b""
        block = bytes(rest[:end])
        del rest[:end]
        self._decoder.feed(block)
        if self._decoder.done:
            cut = _last_start(block)
            block, self.last = block[:cut], block[cut:]
        return _without_usage(block) if self._drop_usage and b'"usage"' in block else block

    def close(self) -> Reply:
        """The whole reply. Raises :class:`ProviderDown` when the stream ended before it did."""
        if self._rest and not self._decoder.done:
            self._decoder.feed(bytes(self._rest))
            self._decoder.feed(b"\n\n")
            if self._decoder.done:
                self.last = bytes(self._rest) + b"\n\n"
        return self._decoder.close()


_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")


def _last_end(data: bytearray, start: int) -> int:
    """Behind the last whole event, looked for from ``start``; 0 or less when none has ended."""
    if data.endswith(b"\n\n"):
        return len(data)
    return max((at + len(end) if (at := data.rfind(end, start)) >= 0 else 0) for end in _ENDS)


def _last_start(block: bytes) -> int:
    """Where the last event of whole events begins."""
    inner = block.rstrip(b"\r\n")
    return max((at + len(end) if (at := inner.rfind(end)) >= 0 else 0) for end in _ENDS)


_USAGE = b'"usage"'
_NO_CHOICES = re.compile(rb'"choices"\s*:\s*\[\s*\]')


def _without_usage(block: bytes) -> bytes:
    """Events but for those that hold only the usage: a client that did not ask for it may stumble over their empty choices."""
    separator = b"\r\n\r\n" if b"\r\n\r\n" in block else b"\n\n"
    at = block.find(_USAGE)
    while at >= 0:
        before = block.rfind(separator, 0, at)
        start, end = before + len(separator) if before >= 0 else 0, block.find(separator, at)
        end = end + len(separator) if end >= 0 else len(block)
        if _NO_CHOICES.search(block, start, end):
            block, end = block[:start] + block[end:], start
        at = block.find(_USAGE, end)
    return block
