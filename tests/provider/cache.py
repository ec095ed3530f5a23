"""A real prefix cache over a request's blocks, by the rules of each kind of model (reference: providers.md, section 5).

A prefix is known by a chained hash over everything before and including a block. What a request reads is decided
when it arrives; what it writes becomes readable only when its answer begins, so calls that start together all write.

Three rules are stricter than a provider need be, so that nothing can rely on luck: an entry is gone the moment its
lifetime ends, a read renews a lifetime only where the provider says so (Anthropic, older OpenAI models), and from
gpt-5.6 a request without ``prompt_cache_key`` finds nothing unless ``keyless_hits`` is set.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import msgspec

from .values import Block, Counter, Heard

SECONDS = {"5m": 300.0, "1h": 3600.0, "30m": 1800.0, "12h": 43200.0, "10m": 600.0, "24h": 86400.0}

_LOOK_BACK = 20
_STEP = 128
_MOST_WRITTEN = 4
_MOST_CONSIDERED = 80
_MOST_ENTRIES = 200_000


class _Entry(msgspec.Struct):
    lifetime: str
    expires: float


class _Write(NamedTuple):
    digest: str
    lifetime: str


class Plan(NamedTuple):
    """What one request finds in the cache and adds to it."""

    total: int
    """All input tokens."""
    cached: int
    written: dict[str, int]
    """Tokens by lifetime."""
    renews: tuple[str, ...] = ()
    writes: tuple[_Write, ...] = ()


class PrefixCache:
    """All prefixes of all models. Belongs to the provider's event loop; ``clear`` may be called from anywhere."""

    def __init__(self, *, clock: Callable[[], float], count: Counter, keyless_hits: bool = False, key_rpm: int = 0) -> None:
        self._clock = clock
        self._count = count
        self._keyless_hits = keyless_hits
        self._key_rpm = key_rpm
        self._entries: dict[str, _Entry] = {}
        self._minutes: dict[str, tuple[int, int]] = {}
        self._keyless = 0

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()

    def plan(self, heard: Heard) -> Plan:
        """What the request reads and would write; nothing is changed yet."""
        sizes = [self._count(block.text) for block in heard.blocks]
        total = sum(sizes)
        caching = heard.facts.caching
        if total < heard.facts.minimum or caching == "none":
            return Plan(total, 0, {})
        if caching == "automatic":
            return self._automatic(heard, total)
        prefix = _Prefix(heard, self._machine(heard), sizes)
        return self._marked(heard, prefix) if caching == "marked" else self._breakpoints(heard, prefix)

    def commit(self, plan: Plan) -> None:
        """The answer begins: what was read is renewed, what was written can be read."""
        now = self._clock()
        for digest in plan.renews:
            entry = self._entries.get(digest)
            if entry is not None:
                entry.expires = now + SECONDS[entry.lifetime]
        for write in plan.writes:
            self._entries[write.digest] = _Entry(write.lifetime, now + SECONDS[write.lifetime])
        if len(self._entries) > _MOST_ENTRIES:
            self._entries = {digest: entry for digest, entry in self._entries.items() if entry.expires > now}
            for digest in list(self._entries)[: len(self._entries) - _MOST_ENTRIES // 2]:
                del self._entries[digest]

    def _live(self, digest: str) -> bool:
        entry = self._entries.get(digest)
        return entry is not None and entry.expires > self._clock()

    # --- Anthropic: cache_control -------------------------------------------------------------------------

    def _marked(self, heard: Heard, prefix: _Prefix) -> Plan:
        marks = [place for place, block in enumerate(heard.blocks) if block.mark]
        found = -1
        for mark in reversed(marks):
            near = range(mark, max(mark - _LOOK_BACK, -1), -1)
            found = max(found, next((place for place in near if self._live(prefix.digests[place])), -1))
        renews = tuple(prefix.digests[place] for place in range(found + 1) if self._live(prefix.digests[place]))
        return self._plan(heard, prefix, found, [mark for mark in marks if mark > found], renews)

    # --- OpenAI from gpt-5.6: breakpoints -----------------------------------------------------------------

    def _breakpoints(self, heard: Heard, prefix: _Prefix) -> Plan:
        explicit = [place for place, block in enumerate(heard.blocks) if block.mark]
        implicit = [] if heard.cache_mode == "explicit" else _turn_ends(heard.blocks)
        considered = sorted({*explicit, *implicit})[-_MOST_CONSIDERED:]
        found = max((place for place in considered if self._live(prefix.digests[place])), default=-1)
        room = _MOST_WRITTEN - bool(implicit)
        wanted = sorted({*explicit[-room:], *implicit[-1:]})
        return self._plan(heard, prefix, found, [place for place in wanted if place > found], ())

    def _plan(self, heard: Heard, prefix: _Prefix, found: int, marks: Sequence[int], renews: tuple[str, ...]) -> Plan:
        cached = prefix.sizes[found] if found >= 0 else 0
        written: dict[str, int] = {}
        writes: list[_Write] = []
        done = cached
        for mark in marks:
            size = prefix.sizes[mark]
            if size < heard.facts.minimum:
                continue
            lifetime = heard.blocks[mark].mark or heard.lifetime
            written[lifetime] = written.get(lifetime, 0) + size - done
            writes.append(_Write(prefix.digests[mark], lifetime))
            done = size
        return Plan(prefix.sizes[-1], cached, written, renews, tuple(writes))

    # --- older OpenAI models: the longest prefix, in steps ------------------------------------------------

    def _automatic(self, heard: Heard, total: int) -> Plan:
        text = b"".join(_frame(block) for block in heard.blocks)
        # A step is this many bytes of the rendered prompt: its share of the tokens, whatever the counter.
        width = max(1, len(text) * _STEP // total)
        steps = list(_chain(text, width, _root(heard, heard.cache_key)))
        found = next((place for place in range(len(steps), 0, -1) if self._live(steps[place - 1])), 0)
        cached = found * _STEP if found * _STEP >= heard.facts.minimum else 0
        writes = tuple(_Write(digest, heard.lifetime or "10m") for digest in steps)
        return Plan(total, min(cached, total), {}, (), writes)

    # --- routing ------------------------------------------------------------------------------------------

    def _machine(self, heard: Heard) -> str:
        """Where the request lands: entries are found only on the machine that wrote them."""
        key = heard.cache_key
        if heard.facts.caching != "breakpoints":
            return key
        if not key:
            self._keyless += not self._keyless_hits
            return f"anywhere {self._keyless}"
        if not self._key_rpm:
            return key
        minute = int(self._clock() // 60)
        seen = self._minutes.get(key, (minute, 0))
        number = seen[1] if seen[0] == minute else 0
        self._minutes[key] = (minute, number + 1)
        return f"{key} {number // self._key_rpm}"


class _Prefix:
    """The chained hash and the size in tokens of each prefix that ends with a block."""

    def __init__(self, heard: Heard, machine: str, sizes: Sequence[int]) -> None:
        state = hashlib.sha256(_root(heard, machine))
        self.digests: list[str] = []
        self.sizes: list[int] = []
        done = 0
        for block, size in zip(heard.blocks, sizes, strict=True):
            state.update(_frame(block))
            self.digests.append(state.copy().hexdigest())
            done += size
            self.sizes.append(done)


def _root(heard: Heard, machine: str) -> bytes:
    return "\0".join((heard.facts.name, machine, *heard.identity)).encode("utf-8", "surrogatepass")


def _frame(block: Block) -> bytes:
    # Length-prefixed, so no text can imitate the border between two blocks.
    text = block.text.encode("utf-8", "surrogatepass")
    return b"%s %d %s" % (block.kind.encode(), len(text), text)


def _chain(text: bytes, width: int, root: bytes) -> Iterator[str]:
    state = hashlib.sha256(root)
    for start in range(0, len(text) - width + 1, width):
        state.update(text[start : start + width])
        yield state.copy().hexdigest()


def _turn_ends(blocks: Sequence[Block]) -> list[int]:
    """Where the implicit breakpoint is, or was when the turn was the latest: the last block of each user or tool turn."""
    turns = {"user", "tool-result"}
    return [
        place
        for place, block in enumerate(blocks)
        if block.kind in turns and (place + 1 == len(blocks) or blocks[place + 1].kind != block.kind)
    ]
