"""In which language a text is, as far as its script and its commonest words tell.

A cheap check that knows when it does not know: scripts that one language uses decide by themselves, Latin and
Cyrillic texts by the function words of some languages, and everything else is no answer. (Trigram models tell
more languages apart on short texts, and are never in doubt; a gate needs the doubt.)
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import cache, lru_cache
from importlib.resources import files

from ...contract import shorten
from .common import Inner, plain
from .protocol import Answer, Grade, Unscored

_READ = 20_000
"""Characters of a text that are looked at."""
_SHARE = 0.6
"""Of the letters, for a script to be the text's."""
_LEAST_WORDS = 2
_LEAD = 1.5
"""How many times as many function words as the next language's a text must have."""

_ONE_LANGUAGE = {
    "GREEK": "el",
    "HEBREW": "he",
    "THAI": "th",
    "HANGUL": "ko",
    "GEORGIAN": "ka",
    "ARMENIAN": "hy",
    "KANA": "ja",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KHMER": "km",
    "LAO": "lo",
}
_LEAST_HAN = 10
"""Characters of Han alone from which a text is Chinese: a shorter one may be Japanese."""

_TOKEN = re.compile(r"[^\W\d_]+")


@cache
def _languages_by_word() -> dict[str, tuple[str, ...]]:
    lines = files("promptsmith").joinpath("evals", "scorers", "function_words.txt").read_text("utf-8").splitlines()
    found: dict[str, tuple[str, ...]] = {}
    for code, words in (line.split(": ", 1) for line in lines if not line.startswith("#")):
        for word in words.split():
            found[word] = (*found.get(word, ()), code)
    return found


def script_of(text: str) -> str:
    """The script of most letters (``LATIN``, ``CYRILLIC``, ``KANA``, ``CJK`` …), or an empty string."""
    counts: Counter[str] = Counter()
    for letter, times in Counter(text[:_READ]).items():
        if letter.isalpha():
            counts[_script(letter)] += times
    if counts["KANA"]:
        # Japanese mixes both; Chinese has no kana.
        counts["KANA"] += counts.pop("CJK", 0)
    script, most = max(counts.items(), key=lambda item: item[1], default=("", 0))
    return script if most and most >= _SHARE * counts.total() else ""


@lru_cache(maxsize=4096)
def _script(letter: str) -> str:
    name = unicodedata.name(letter, "?").split(maxsplit=1)[0]
    return "KANA" if name in ("HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA") else name


def language_of(text: str) -> str:
    """The ISO 639-1 code of a text's language, or an empty string where that can't be told."""
    return _language(text, script_of(text))


def _language(text: str, script: str) -> str:
    if script in _ONE_LANGUAGE:
        return _ONE_LANGUAGE[script]
    if script == "CJK":
        return "zh" if sum(letter.isalpha() for letter in text[:_READ]) >= _LEAST_HAN else ""
    if script not in ("LATIN", "CYRILLIC"):
        return ""
    known, hits = _languages_by_word(), Counter[str]()
    for word in _TOKEN.findall(text[:_READ].casefold()):
        hits.update(known.get(word, ()))
    (best, most), (_, second) = [*hits.most_common(2), ("", 0), ("", 0)][:2]
    return best if most >= _LEAST_WORDS and most >= _LEAD * second else ""


def same_language(code: str | None, against: str) -> Inner:
    """Passes when the output is in the language ``code``, or in that of the input or the expected output.

    Raises :class:`Unscored` when either can't be told, unless their scripts differ, which settles it.
    """

    def grade(answer: Answer) -> Grade:
        script = script_of(answer.output)
        found = _language(answer.output, script)
        if code is not None:
            wanted, wanted_script, where = code.lower().partition("-")[0], "", ""
        else:
            text = answer.expected if against == "expected" else "\n".join(answer.inputs.values())
            wanted_script = script_of(text)
            wanted, where = _language(text, wanted_script), f" as the {'expected output' if against == 'expected' else 'input'} is"
        if found and wanted:
            got = f"is in {found!r}" if found == wanted else f"{shorten(answer.output)} is in {found!r}"
            return plain(found == wanted, f"{got}{where}" if found == wanted else f"{got}, not in {wanted!r}{where}")
        if script and wanted_script and _family(script) != _family(wanted_script):
            return plain(False, f"{shorten(answer.output)} is written in {script.title()}, not in {wanted_script.title()}{where}")
        which = "the output" if not found else where.removeprefix(" as ").removesuffix(" is")
        raise Unscored(f"can't tell in which language {which} is: too short, mixed, or none of those known")

    return grade


def _family(script: str) -> str:
    return "EAST ASIAN" if script in ("CJK", "KANA") else script
