"""Takes a meta-model's answer down to the prompt in it: no fence, no preamble, no farewell."""

from __future__ import annotations

import re

_BEFORE = r"\A(?:(?:[^\n`<]{0,200}:|(?:sure|certainly|of course|absolutely|okay|here)\b[^\n`<]{0,200})[ \t]*\n+){0,3}"
"""Lines that announce something: what follows them in a fence or tag is the answer, and not a part of it."""
_AFTER = r"(?:\n+(?:let me know|i hope|feel free|would you like|this (?:system )?prompt)[^\n]{0,300})?\s*\Z"
_FENCE = re.compile(_BEFORE + r"(`{3,})[\w-]*[ \t]*\n(.*?)\n\1[ \t]*" + _AFTER, re.DOTALL | re.IGNORECASE)
_TAGGED = re.compile(_BEFORE + r"<(system[-_]?prompt|prompt|instructions)>\n?(.*?)\n?</\1>" + _AFTER, re.DOTALL | re.IGNORECASE)
_PREAMBLE = re.compile(
    r"\A(?:(?:sure|certainly|of course|absolutely|okay)[^\n]{0,120}\n+)?"
    r"(?:here(?:'s| is)[^\n]{0,120}|(?:the |your )?(?:optimi[sz]ed |final |revised |improved )?system prompt(?: is| follows)?)[:.]?[ \t]*\n+",
    re.IGNORECASE,
)
_GREETING = re.compile(r"\A(?:sure|certainly|of course|absolutely|okay|got it)[!,.][^\n]{0,120}\n+", re.IGNORECASE)
_FAREWELL = re.compile(
    # Once for a run of line breaks, not once for each of them: a meta-model may answer with nothing but those.
    r"(?<!\n)\n+(?:---+\n+)?(?:let me know|i hope this|feel free|would you like|this (?:system )?prompt (?:is|will|should|ensures))[^\n]*(?:\n[^\n]+)?\s*\Z",
    re.IGNORECASE,
)


def cleaned(answer: str) -> str:
    """The prompt in ``answer``: what stands in its one fence or tag, without greeting, announcement and farewell."""
    text = answer.replace("\r\n", "\n").replace("\r", "\n").strip()
    for _ in range(3):
        before = text
        for wrapper in (_FENCE, _TAGGED):
            if match := wrapper.match(text):
                text = match[2].strip()
        text = _PREAMBLE.sub("", text)
        text = _GREETING.sub("", text)
        text = _FAREWELL.sub("", text).strip()
        if text == before:
            break
    return "\n".join(line.rstrip() for line in text.split("\n"))
