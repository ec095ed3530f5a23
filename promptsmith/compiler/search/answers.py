"""Reading what the meta-model answered: the prompt in it, what it said of it, and why it can't be used.

Nothing is taken on trust. What was refused, cut off or endless is unusable; what has faults can be repaired once; only
what has neither may take part in a search.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache

import msgspec

from ...chat import Reply
from ...contract import find_json
from ...evals.leak import leaks_in
from ...evals.suite import sealed_texts
from ...prompt import example_block
from ...redact import redact
from ..clean import cleaned
from ..draft import subject
from ..lint import LintFinding, lint
from ..material import Material

MOST_CHARS = 40_000
"""A longer answer is not looked at: instructions may have about 4,000 tokens."""
SAID_CHARS = 2000
"""How much of a diagnosis is kept."""

_STOPS: Mapping[str, str] = {
    "length": "was cut off at its length limit",
    "refused": "was refused by the meta-model",
    "filtered": "was held back by the provider's filter",
    "aborted": "was broken off",
}
_PROMPT, _DIAGNOSIS = "prompt", "diagnosis"
_HEADING = re.compile(r"[#*\s]*(?:(?:solved|labell?ed)\s+)?examples?[*:\s]*", re.IGNORECASE)
_LEAST_LETTERS = 20
_MAIN_SHARE = 0.6


class Read(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it was read."""

    text: str = ""
    """The instructions in it; empty when it is unusable."""
    said: str = ""
    """The diagnosis, without secrets, at most 2,000 characters."""
    faults: tuple[LintFinding, ...] = ()
    """What is wrong with ``text``; the meta-model can be told."""
    unusable: str = ""
    """Why there is nothing to repair, in words that follow "the answer"."""

    @property
    def usable(self) -> bool:
        """Whether ``text`` may take part."""
        return not self.faults and not self.unusable


def read_draft(reply: Reply, source: Material) -> Read:
    """The answer to a request for a draft, or for a repair: a prompt and nothing else, or a JSON object with the key ``prompt``."""
    if why := _unusable(reply):
        return Read(unusable=why)
    keyed = _keyed(reply.text)
    return _judged(reply.text if keyed is None else keyed[0], "" if keyed is None else keyed[1], source)


def read_reflection(reply: Reply, source: Material) -> Read:
    """The answer to a request for an edit: a diagnosis and a prompt between tags, in either order, or as keys of a JSON object.

    Of several pairs the first complete one counts. Without any tag the whole answer is the prompt.
    """
    if why := _unusable(reply):
        return Read(unusable=why)
    prompt, said = _keyed(reply.text) or _tagged(reply.text)
    return _judged(prompt, said, source)


def _unusable(reply: Reply) -> str:
    if reply.stop != "end":
        return _STOPS[reply.stop]
    if len(reply.text) > MOST_CHARS:
        return f"has {len(reply.text)} characters, more than {MOST_CHARS}"
    return ""


def _judged(prompt: str, said: str, source: Material) -> Read:
    text = _without_blocks(cleaned(prompt))
    faults = [*lint(subject(source, text)), *_dev_texts(text, source), *_other_script(text, source)]
    return Read(text=text, said=redact(said.strip())[:SAID_CHARS], faults=tuple(dict.fromkeys(faults)))


# --- finding the prompt -----------------------------------------------------------------------------------


def _keyed(text: str) -> tuple[str, str] | None:
    """Prompt and diagnosis of an answer that is a JSON object with these keys; ``None`` for any other answer."""
    if not text.lstrip("`json\r\n\t ").startswith("{"):
        return None
    try:
        value = find_json(text)
    except ValueError:
        return None
    if not isinstance(value, dict) or not isinstance(value.get(_PROMPT), str):
        return None
    said = value.get(_DIAGNOSIS, "")
    return value[_PROMPT], said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)


def _tagged(text: str) -> tuple[str, str]:
    """Prompt and diagnosis of an answer with tags."""
    said, rest = "", text
    if (found := _pair(_DIAGNOSIS, text)) is not None:
        start, end = found
        said, rest = _inside(text[start:end]), f"{text[:start]}\n{text[end:]}"
    if (found := _pair(_PROMPT, rest)) is not None:
        return _inside(rest[slice(*found)]), said
    # A tag that was opened and never closed, or the other way round.
    opened = re.search(rf"<{_PROMPT}>", rest, re.IGNORECASE)
    if opened:
        return rest[opened.end() :], said
    return re.split(rf"</{_PROMPT}>", rest, maxsplit=1, flags=re.IGNORECASE)[0], said


def _pair(name: str, text: str) -> tuple[int, int] | None:
    """Where the first complete pair of tags begins and ends: the outermost one where tags are nested, else the innermost."""
    opened: list[int] = []
    innermost = None
    for tag in re.finditer(rf"<(/?){name}>", text, re.IGNORECASE):
        if not tag[1]:
            opened.append(tag.start())
        elif opened:
            start = opened.pop()
            innermost = innermost or (start, tag.end())
            if not opened:
                return start, tag.end()
    return innermost


def _inside(pair: str) -> str:
    return pair[pair.index(">") + 1 : pair.rindex("<")].strip()


def _without_blocks(text: str) -> str:
    """``text`` without example blocks and their headings: which examples stand in a prompt is not for the meta-model to say."""
    opening, closing = example_block(()).split("\n")
    kept: list[str] = []
    opened: list[int] = []
    for line in text.split("\n"):
        if line == closing and opened:
            del kept[opened.pop() :]
            while kept and (not kept[-1].strip() or _HEADING.fullmatch(kept[-1])):
                kept.pop()
            continue
        if line == opening:
            opened.append(len(kept))
        kept.append(line)
    return "\n".join(kept)


# --- what lint alone does not find ------------------------------------------------------------------------


def _dev_texts(text: str, source: Material) -> Iterator[LintFinding]:
    """No text of a dev case: its score would prove nothing. What the user's own words hold is no leak."""
    texts = {row.id: sealed_texts(row.inputs, row.output, source.contract) for row in source.dev}
    found = leaks_in(text, texts).instructions
    own = leaks_in("\n".join([source.description, *(line.say for line in source.constraints)]), texts).instructions if found else ()
    for name in found:
        if name not in own:
            yield LintFinding("dev-text", 0, f"repeats the text of an input that it was not shown ({name}); state the rule instead")


def _other_script(text: str, source: Material) -> Iterator[LintFinding]:
    """No other script than the task's.

    Latin-script languages are told apart by :mod:`promptsmith.compiler.lint`, where that is clear. Here a prompt is at fault
    when most of its letters are of a script that no text of the task has: not its description, nor its contract,
    constraints, inputs or examples. Two languages of another script (Russian, Ukrainian) are not told apart.
    """
    counts = _scripts(text)
    if counts.total() < _LEAST_LETTERS:
        return
    script, letters = counts.most_common(1)[0]
    if letters < _MAIN_SHARE * counts.total() or script in _scripts(source.description):
        return
    if script not in _scripts(_words_of(source)):
        yield LintFinding("other-language", 0, f"is written in another script ({script.title()}) than the task")


def _words_of(source: Material) -> str:
    view = subject(source, "")
    shape = msgspec.json.encode(source.contract.shape).decode()
    rows = [text for example in source.examples for text in (*example.inputs.values(), example.output)]
    return "\n".join([view.description, view.allowed, shape, *rows])


def _scripts(text: str) -> Counter[str]:
    counts: Counter[str] = Counter()
    for char, times in Counter(text).items():
        if script := _script(char):
            counts[script] += times
    return counts


@cache
def _script(char: str) -> str:
    """The script of a letter, by the first word of its Unicode name; Chinese and Japanese letters are one."""
    if not char.isalpha():
        return ""
    first = unicodedata.name(char, "").partition(" ")[0]
    return "CJK" if first in ("HIRAGANA", "KATAKANA") else first
