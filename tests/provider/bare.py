"""A constant answer as fast as Python can give it: no checks, no records, no cache, no streams.

For benchmarks that would otherwise measure this provider. It understands just enough HTTP/1.1 for well-behaved
clients: keep-alive, ``content-length`` or chunked bodies, no pipelining.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import cast

from . import sse

_END = b"\r\n\r\n"
_TEXT = "positive"


def _replies(text: str) -> Mapping[bytes, bytes]:
    """The whole HTTP answer by the last part of the path."""
    usage = {"prompt_tokens": 100, "completion_tokens": 2, "total_tokens": 102}
    message = {"role": "assistant", "content": text, "refusal": None}
    chat = {
        "id": "chatcmpl-0", "object": "chat.completion", "created": 0, "model": "gpt-6-luna",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}], "usage": usage,
    }  # fmt: skip
    part = {"type": "output_text", "text": text, "annotations": []}
    item = {"id": "msg_0", "type": "message", "role": "assistant", "status": "completed", "content": [part]}
    counted = {
        "input_tokens": 100, "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 2, "output_tokens_details": {"reasoning_tokens": 0}, "total_tokens": 102,
    }  # fmt: skip
    responses = {
        "id": "resp_0", "object": "response", "created_at": 0, "status": "completed", "model": "gpt-6-luna", "output": [item],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": [], "usage": counted,
    }  # fmt: skip
    messages = {
        "id": "msg_0", "type": "message", "role": "assistant", "model": "claude-haiku-5-5", "content": [{"type": "text", "text": text}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": {"input_tokens": 100, "output_tokens": 2},
    }  # fmt: skip
    bodies = {b"completions": chat, b"responses": responses, b"messages": messages}
    return {name: _http(sse.wire(body)) for name, body in bodies.items()}


def _http(body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-request-id: req_0\r\nrequest-id: req_0\r\ncontent-length: %d"
    return head % len(body) + _END + body


_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\ncontent-length: 0" + _END


class _Connection(asyncio.Protocol):
    def __init__(self, replies: Mapping[bytes, bytes], latency: float, loop: asyncio.AbstractEventLoop) -> None:
        self._replies = replies
        self._latency = latency
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
        if b"\r\ntransfer-encoding: chunked" in head:
            complete = self._buffer.endswith(b"0" + _END)
        else:
            _, _, length = head.partition(b"\r\ncontent-length: ")
            complete = len(self._buffer) >= end + 4 + int(length.partition(b"\r\n")[0] or 0)
        if not complete:
            return
        self._buffer = b""
        path = head.split(b" ", 2)[1].partition(b"?")[0]
        reply = self._replies.get(path.rpartition(b"/")[2], _NOT_FOUND)
        if self._latency:
            self._loop.call_later(self._latency, self._send, reply)
        else:
            self._send(reply)

    def _send(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(reply)


async def serve_bare(port: int, ready: Callable[[int], object], *, latency: float = 0.0, text: str = _TEXT) -> None:
    """Serves until cancelled; calls ``ready`` with the port once connections are accepted."""
    loop = asyncio.get_running_loop()
    replies = _replies(text)
    server = await loop.create_server(lambda: _Connection(replies, latency, loop), "127.0.0.1", port, backlog=1024)
    async with server:
        ready(server.sockets[0].getsockname()[1])
        await server.serve_forever()
