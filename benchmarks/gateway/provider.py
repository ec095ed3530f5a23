"""``python -m benchmarks.gateway.provider``: a provider that answers as fast as Python can, and tells what it was asked.

Its text is two digests, of the system prompt and of the last user message, so that whoever asked can tell a wrong answer from a right
one. It speaks OpenAI's chat completions and Anthropic's messages, whole and streamed. A model ``echo-50`` waits 50 ms before it answers.
A user message that ends in ``#123`` is counted as 123 input tokens: a ledger row then names the call that it belongs to. Only such
numbered messages are struck by ``--faults``.

It understands just enough HTTP/1.1 for well-behaved clients: keep-alive, ``content-length`` or chunked bodies, no pipelining.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import hashlib
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, cast

import msgspec
import uvloop

_END = b"\r\n\r\n"
_TOKENS = 100
_EVENT_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_0\r\ntransfer-encoding: chunked" + _END
_LAST_CHUNK = b"0" + _END

FAULTS = ("500", "reset", "slow")
"""What ``--faults`` injects at random: an error, a connection that breaks off inside the answer, an answer that comes late."""
_REFUSING = "429"
_REFUSING_EVERY = 40.0
"""Seconds. A provider refuses calls because there are too many, not at random: all of them for a while, with a Retry-After."""
_SLOW = 0.5
_FLUSHED = 0.005
"""Seconds that a half answer gets to leave before its connection is reset, which would take unsent bytes with it."""

_encode = msgspec.json.encode


class _Part(msgspec.Struct):
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part]


class _Options(msgspec.Struct):
    include_usage: bool = False


class _Body(msgspec.Struct):
    model: str
    messages: list[_Message]
    system: str | list[_Part] = ""
    stream: bool = False
    stream_options: _Options | None = None


_decode = msgspec.json.Decoder(_Body).decode


def digest(system: str, user: str) -> str:
    """What is answered to these two texts: 16 hex digits of each."""
    return f"{_hex(system)}-{_hex(user)}"


def _hex(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _text(content: str | list[_Part]) -> str:
    return content if isinstance(content, str) else "".join(part.text for part in content)


def _number(user: str) -> int | None:
    _, mark, number = user.rpartition("#")
    return int(number) if mark and number.isdecimal() else None


def _asked(body: _Body) -> tuple[str, str]:
    """The system prompt and the last user message."""
    system = _text(body.system) or "".join(_text(turn.content) for turn in body.messages if turn.role in ("system", "developer"))
    return system, _text(body.messages[-1].content)


def _pieces(text: str) -> Iterator[str]:
    return (text[at : at + 9] for at in range(0, len(text), 9))


# --- what it answers -----------------------------------------------------------------------------------------


def _chat(body: _Body, text: str, tokens: int) -> bytes:
    message = {"role": "assistant", "content": text, "refusal": None}
    return _encode({
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": body.model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}], "usage": _chat_usage(tokens),
    })  # fmt: skip


def _chat_usage(tokens: int) -> dict[str, Any]:
    return {"prompt_tokens": tokens, "completion_tokens": 2, "total_tokens": tokens + 2}


def _chat_events(body: _Body, text: str, tokens: int) -> list[bytes]:
    def event(choices: list[Any], usage: Any = None) -> bytes:
        chunk = {"id": "chatcmpl-0", "object": "chat.completion.chunk", "created": 0, "model": body.model, "choices": choices}
        return b"data: " + _encode(chunk | ({"usage": usage} if usage else {})) + b"\n\n"

    def choice(delta: dict[str, str], stop: str | None = None) -> list[Any]:
        return [{"index": 0, "delta": delta, "finish_reason": stop, "logprobs": None}]

    events = [event(choice({"role": "assistant", "content": ""}))]
    events += [event(choice({"content": piece})) for piece in _pieces(text)]
    events.append(event(choice({}, "stop")))
    if body.stream_options is not None and body.stream_options.include_usage:
        events.append(event([], _chat_usage(tokens)))
    return [*events, b"data: [DONE]\n\n"]


def _messages(body: _Body, text: str, tokens: int) -> bytes:
    return _encode({
        "id": "msg_0", "type": "message", "role": "assistant", "model": body.model, "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": tokens, "output_tokens": 2},
    })  # fmt: skip


def _messages_events(body: _Body, text: str, tokens: int) -> list[bytes]:
    def event(kind: str, **fields: Any) -> bytes:
        return b"event: %s\ndata: %s\n\n" % (kind.encode(), _encode({"type": kind, **fields}))

    begun: dict[str, Any] = {
        "id": "msg_0", "type": "message", "role": "assistant", "model": body.model, "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {"input_tokens": tokens, "output_tokens": 1},
    }  # fmt: skip
    return [
        event("message_start", message=begun),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(event("content_block_delta", index=0, delta={"type": "text_delta", "text": piece}) for piece in _pieces(text)),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage={"output_tokens": 2}),
        event("message_stop"),
    ]


@functools.lru_cache(maxsize=256)  # a load asks the same again and again, and what is measured is not this provider
def _answered(data: bytes, anthropic: bool) -> tuple[tuple[bytes, ...], float, bool]:
    """What is sent for a request's body, in the pieces in which it is sent, after how many seconds, and whether its message is numbered."""
    body = _decode(data)
    system, user = _asked(body)
    number = _number(user)
    text, tokens, numbered = digest(system, user), _TOKENS if number is None else number, number is not None
    wait = int(body.model.rpartition("-")[2]) / 1000
    if not body.stream:
        return (_http((_messages if anthropic else _chat)(body, text, tokens)),), wait, numbered
    events = (_messages_events if anthropic else _chat_events)(body, text, tokens)
    # The first event by itself, as a model's first token is: a gateway has to pass it on before it has the rest.
    return (_EVENT_HEAD + _chunked(events[:1]), _chunked(events[1:]) + _LAST_CHUNK), wait, numbered


def _http(body: bytes, status: bytes = b"200 OK", extra: bytes = b"") -> bytes:
    head = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\nx-request-id: req_0\r\nrequest-id: req_0\r\n%scontent-length: %d"
    return head % (status, extra, len(body)) + _END + body


def _chunked(events: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(event), event) for event in events)


def _error(message: str, status: bytes, extra: bytes = b"") -> bytes:
    return _http(_encode({"type": "error", "error": {"type": "injected", "message": message}}), status, extra)


_REFUSALS = {
    _REFUSING: _error("injected: too many requests", b"429 Too Many Requests", b"retry-after: 1\r\n"),
    "500": _error("injected: an error of the provider", b"500 Internal Server Error"),
}


# --- connections ---------------------------------------------------------------------------------------------


class Chances:
    """Which requests get a fault, and how often each has happened: each kind, refusals too, strikes a quarter of ``share``."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._dice = random.Random(seed)
        self._begin = time.monotonic()
        self.counted: Counter[str] = Counter()

    def next(self, numbered: bool) -> str:
        """``429``, a name out of :data:`FAULTS`, or empty."""
        fault = self._fault() if numbered and self._share else ""
        self.counted[fault or "answered"] += 1
        return fault

    def _fault(self) -> str:
        refusing = _REFUSING_EVERY * self._share / 4
        if (time.monotonic() - self._begin) % _REFUSING_EVERY > _REFUSING_EVERY - refusing:
            return _REFUSING
        return self._dice.choice(FAULTS) if self._dice.random() < self._share * 3 / 4 else ""


class _Connection(asyncio.Protocol):
    def __init__(self, chances: Chances, loop: asyncio.AbstractEventLoop) -> None:
        self._chances = chances
        self._loop = loop
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # By its duties, not by its class: uvloop's transports do not inherit from asyncio's.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        end = self._buffer.find(_END)
        if end < 0:
            return
        head = self._buffer[:end].lower()
        body = self._buffer[end + 4 :]
        if b"\r\ntransfer-encoding: chunked" in head:
            if not body.endswith(_LAST_CHUNK):
                return
            body = joined(body)
        elif len(body) < int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0] or 0):
            return
        self._buffer = b""
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        if path == b"/counts":
            self._send(_http(_encode(self._chances.counted)))
        else:
            self._answer(path, body)

    def _answer(self, path: bytes, data: bytes) -> None:
        try:
            parts, wait, numbered = _answered(data, path.endswith(b"/messages"))
        except (msgspec.MsgspecError, ValueError) as error:
            self._send(_error(str(error), b"400 Bad Request"))
            return
        fault = self._chances.next(numbered)
        if fault in _REFUSALS:
            parts = (_REFUSALS[fault],)
        elif fault == "slow":
            wait += _SLOW
        if fault == "reset":
            self._loop.call_later(wait, self._break_off, parts)
        elif wait:
            self._loop.call_later(wait, self._send, *parts)
        else:
            self._send(*parts)

    def _break_off(self, parts: tuple[bytes, ...]) -> None:
        whole = b"".join(parts)
        self._send(whole[: len(whole) // 2])
        self._loop.call_later(_FLUSHED, self._abort)

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _send(self, *parts: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(parts[0])
        if len(parts) > 1:  # in the loop's next turn: in this one they would leave together
            self._loop.call_soon(self._send, *parts[1:])


def joined(data: bytes) -> bytes:
    """The body in ``data``, a complete sequence of HTTP chunks."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = data.index(b"\r\n", at)
        size = int(data[at:end], 16)
        if not size:
            return b"".join(parts)
        parts.append(data[end + 2 : end + 2 + size])
        at = end + 4 + size


async def _serve(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    chances = Chances(options.faults, options.seed)
    server = await loop.create_server(lambda: _Connection(chances, loop), "127.0.0.1", options.port, backlog=4096)
    told = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.set)
    async with server:
        sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await told.wait()


def main() -> None:
    """Serves until SIGTERM or SIGINT; the address is its only line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gateway.provider", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="default: any free one")
    parser.add_argument(
        "--faults", type=float, default=0.0, metavar="SHARE", help=f"of requests that get 429 or one of {', '.join(FAULTS)}"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the faults' chances")
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
