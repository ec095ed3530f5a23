"""``builtin/nearest``: a production model in the box that answers by the nearest examples of the prompt it is given.

No network and no weights: it reads the pairs out of the system prompt and ranks them by BM25 (Robertson and
Zaragoza 2009, k1 1.2, b 0.75) over character 3- to 5-grams that stay inside words (plus a word's borders), where
a document is one pair's input together with the words of its output. The five best vote with their scores for an
output; ties go to the earlier pair. An honest baseline, and truly dependent on the compiled prompt.
"""

from __future__ import annotations

import math
import time
import unicodedata
from collections import OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from ..chat import Chunk, Reply, Request, Usage
from ..errors import ModelError
from ..prompt import TEXT_INPUT, Pair, read_examples, turn_text

NAME = "builtin/nearest"

_K1 = 1.2
_B = 0.75
_NEIGHBOURS = 5
_GRAMS = (3, 4, 5)
_KEPT_INDEXES = 64


class Nearest:
    """The model. An index is built once per static block and kept, the least recently used dropped first."""

    name = NAME

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, Index] = OrderedDict()

    async def reply(self, request: Request) -> Reply:
        started = time.perf_counter()
        text = self.index(request).answer(query_text(request))
        return Reply(text=text, model=NAME, usage=Usage(), cost=0.0, latency=time.perf_counter() - started)

    async def stream(self, request: Request) -> AsyncIterator[Chunk]:
        reply = await self.reply(request)
        yield Chunk(reply.text)
        yield Chunk("", reply)

    def index(self, request: Request) -> Index:
        """The index of the request's examples. Raises :class:`ModelError` when its prompt has none."""
        key = request.static or request.system
        index = self._indexes.get(key)
        if index is None:
            pairs = read_examples(request.system)
            if not pairs:
                raise ModelError(
                    f"{NAME} answers by the examples in the prompt, and this prompt has none",
                    hint="give the task examples and compile it, or name another production model",
                )
            index = self._indexes[key] = Index(pairs)
            while len(self._indexes) > _KEPT_INDEXES:
                self._indexes.popitem(last=False)
        else:
            with suppress(KeyError):  # another thread may have dropped it meanwhile
                self._indexes.move_to_end(key)
        return index


def query_text(request: Request) -> str:
    """The text that is looked up: the last user turn."""
    for turn in reversed(request.turns):
        if turn.role == "user":
            return turn_text(turn.text)
    raise ModelError(f"{NAME} was asked nothing: the request has no user turn")


class Index:
    """BM25 over one prompt's pairs."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self._outputs = [pair.output for pair in pairs]
        documents = [grams(f"{_input_text(pair)} {_output_words(pair)}") for pair in pairs]
        self._postings = _weigh(documents)

    def answer(self, query: str) -> str:
        """The output that the nearest pairs vote for; the first pair's when nothing is alike."""
        scores: dict[int, float] = {}
        for gram in dict.fromkeys(grams(query)):
            for position, weight in self._postings.get(gram, ()):
                scores[position] = scores.get(position, 0.0) + weight
        best = sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:_NEIGHBOURS]
        votes: dict[str, float] = {}
        for position, score in best:
            output = self._outputs[position]
            votes[output] = votes.get(output, 0.0) + score
        return max(votes, key=lambda output: votes[output]) if votes else self._outputs[0]


def _weigh(documents: Sequence[Sequence[str]]) -> dict[str, list[tuple[int, float]]]:
    counts: list[dict[str, int]] = []
    spread: dict[str, int] = {}
    for document in documents:
        count: dict[str, int] = {}
        for gram in document:
            count[gram] = count.get(gram, 0) + 1
        counts.append(count)
        for gram in count:
            spread[gram] = spread.get(gram, 0) + 1
    total = len(documents)
    mean = sum(map(len, documents)) / total or 1.0
    postings: dict[str, list[tuple[int, float]]] = {gram: [] for gram in spread}
    for position, count in enumerate(counts):
        norm = _K1 * (1 - _B + _B * len(documents[position]) / mean)
        for gram, n in count.items():
            idf = math.log(1 + (total - spread[gram] + 0.5) / (spread[gram] + 0.5))
            postings[gram].append((position, idf * n * (_K1 + 1) / (n + norm)))
    return postings


def grams(text: str) -> list[str]:
    """Character 3- to 5-grams of each word, the word's borders marked by a blank; a short word is one gram."""
    found: list[str] = []
    for word in _words(text):
        padded = f" {word} "
        for size in _GRAMS:
            if len(padded) <= size:
                found.append(padded)
                break
            found += [padded[i : i + size] for i in range(len(padded) - size + 1)]
    return found


def _words(text: str) -> list[str]:
    folded = unicodedata.normalize("NFKC", text).casefold()
    return "".join(char if char.isalnum() else " " for char in folded).split()


def _input_text(pair: Pair) -> str:
    return pair.inputs[TEXT_INPUT] if list(pair.inputs) == [TEXT_INPUT] else " ".join(pair.inputs.values())


def _output_words(pair: Pair) -> str:
    return "" if pair.json else pair.output.replace("_", " ")
