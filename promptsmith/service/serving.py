"""One prompt ready to be served to clients of one API: what its calls share, worked out once."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from ..chat import Request, Turn
from ..models.directory import Directory
from ..models.limits import tokens_of
from ..models.upstream import Upstream
from ..models.wire import CachePlan, ClientCodec
from ..models.wire.schemas import is_wrapped
from ..prompt import Prompt, bind, user_turn
from ..runtime.core import Core, Handle
from ..runtime.values import Given, RunOptions

_MARK = "\u2063promptsmith: the turns stand here\u2063"
_KEPT = 1024


class Block:
    """A request's body but for its turns, encoded once, so that its beginning is the same in every call."""

    __slots__ = ("after", "before")

    def __init__(self, whole: bytes) -> None:
        turn = msgspec.json.encode({"role": "user", "content": _MARK})
        self.before, found, self.after = whole.partition(turn)
        assert found, "a codec writes a turn as its role and its content"

    def body(self, turns: Sequence[Turn]) -> bytes:
        """The whole body, byte for byte what the codec would write."""
        written = msgspec.json.encode([{"role": one.role, "content": one.text} for one in turns])
        return b"".join((self.before, written[1:-1], self.after))


class Served:
    """``upstream`` is ``None`` where the answer can't be the provider's bytes: then the runtime answers."""

    def __init__(self, handle: Handle, upstream: Upstream | None, strict: bool) -> None:
        self.handle, self.upstream, self.strict = handle, upstream, strict
        self.prompt: Prompt = handle.prompt
        self._blocks: dict[tuple[CachePlan, bool, bool], Block] = {}
        self._empty = handle.renderer.template
        # Without the schema: an answer that comes wrapped for it is never relayed, so none is to be unwrapped.
        self.asked = msgspec.structs.replace(self._empty, schema="")
        """What an answer is read as an answer to."""

    def turn(self, inputs: Given) -> Turn:
        """The client's words as the prompt's user turn. Raises :class:`InputError` for inputs that are missing, unknown or unusable."""
        if not self.prompt.inputs and isinstance(inputs, str):
            return Turn("user", inputs)
        return Turn("user", user_turn(self.prompt.inputs, bind(self.prompt.inputs, inputs)))

    def request(self, turns: tuple[Turn, ...]) -> Request:
        """The request of a call, in no provider's words."""
        return msgspec.structs.replace(self._empty, turns=turns)

    def body(self, turns: Sequence[Turn], *, stream: bool, usage: bool = False) -> tuple[bytes, CachePlan]:
        """The body for the provider, and what was asked of its prompt cache. ``usage``: the client asked for it in the stream."""
        assert self.upstream is not None
        plan = self.upstream.plan(self._empty)
        block = self._blocks.get((plan, stream, usage))
        if block is None:
            whole = self.upstream.body(self.request((Turn("user", _MARK),)), plan, stream=stream, usage=usage)
            block = self._blocks[plan, stream, usage] = Block(whole)
        return block.body(turns), plan

    def tokens(self, turns: tuple[Turn, ...]) -> float:
        """About how many tokens a call is; 0 where nothing limits these."""
        assert self.upstream is not None
        return tokens_of(self.request(turns)) if self.upstream.counts_tokens else 0.0


class Serving:
    """Every prompt that is being served, by prompt, options and API."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._known: dict[tuple[str, str, object, str], Served] = {}

    def find(self, prompt: Prompt, codec: ClientCodec) -> Served:
        """``prompt`` for clients of ``codec``'s API. Raises what its model's name, key or parameters are wrong with."""
        key = (prompt.id, prompt.task, prompt.serve, codec.path)
        served = self._known.get(key)
        if served is None:
            if len(self._known) >= _KEPT:
                self._known.clear()
            served = self._known[key] = self.make(prompt, codec, {})
        return served

    def make(self, prompt: Prompt, codec: ClientCodec, options: RunOptions) -> Served:
        """The same with options of its own, kept by nobody."""
        handle = self._core.handle(prompt, options)
        policy = self._core.policy(prompt, options)
        plain = policy in {"error", "pass"} and not self._core.uses_cache(prompt, options)
        serve = prompt.serve
        relayed = plain and not serve.fallback and not serve.capture
        upstream = self._upstream(self._core.directory, handle, codec) if relayed else None
        return Served(handle, upstream, strict=policy == "error")

    @staticmethod
    def _upstream(directory: Directory, handle: Handle, codec: ClientCodec) -> Upstream | None:
        found = directory.upstream(handle.renderer.template.model)
        if found is None or found.codec.path != codec.path:
            return None
        # A schema that the provider takes only inside an object comes back inside one; the client must not see that.
        return None if is_wrapped(handle.renderer.template.schema) and found.facts.structured else found
