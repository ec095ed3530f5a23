"""How long ``builtin/nearest`` takes to answer a prompt of 300 examples, and to index it once."""

from __future__ import annotations

import asyncio
import random
import time

from promptsmith.chat import Request, Turn
from promptsmith.models.nearest import NAME, Index, Nearest
from promptsmith.prompt import TEXT_INPUT, Pair, example_block, read_examples

from .measure import MILLI, Figure, interleaved, seconds_of, show

EXAMPLES = 300
LABELS = [f"intent_{number}" for number in range(77)]
WORDS = [
    "card", "account", "transfer", "money", "payment", "refund", "charge", "fee", "exchange", "rate", "cash", "machine",
    "balance", "top", "up", "pending", "declined", "arrived", "lost", "stolen", "new", "old", "why", "is", "my", "the", "was",
    "when", "will", "how", "can", "I", "do", "you", "a", "to", "in", "of", "it", "not", "get", "still", "wrong", "extra",
]  # fmt: skip


def sentence(rng: random.Random) -> str:
    """Words that a bank's customer might use, in no order."""
    return " ".join(rng.choices(WORDS, k=rng.randint(6, 16)))


def figures() -> list[Figure]:
    """The answer from a kept index, and the making of an index."""
    rng = random.Random(1)
    pairs = [Pair({TEXT_INPUT: sentence(rng)}, rng.choice(LABELS)) for _ in range(EXAMPLES)]
    system = f"Say what the customer wants.\n\n{example_block(pairs)}"
    asked = [Request(model=NAME, system=system, turns=(Turn("user", sentence(rng)),), static="300") for _ in range(100)]
    model = Nearest()

    async def answers() -> float:
        begin = time.perf_counter()
        for request in asked:
            await model.reply(request)
        return (time.perf_counter() - begin) / len(asked)

    answer, index = interleaved(lambda: asyncio.run(answers()), seconds_of(lambda: Index(read_examples(system))))
    return [
        Figure(f"builtin/nearest, answer from {EXAMPLES} examples", answer * MILLI, "ms", "about 1 ms"),
        Figure(f"builtin/nearest, index of {EXAMPLES} examples, once", index * MILLI, "ms", "-"),
    ]


if __name__ == "__main__":
    show(figures())
