"""Scorers that look for one short answer in a longer text: a number, or the letter of a choice."""

from __future__ import annotations

import re
from decimal import Context, Decimal, InvalidOperation, localcontext

from ...contract import shorten
from .common import Inner, plain
from .protocol import Answer, Grade, Unscored

# Digits with the marks that group them or begin decimals, then an exponent. A sign counts where no word or number
# ends before it: 3-5 is a range. Possessive, so that a megabyte of digits is read once.
_NUMBER = re.compile(
    r"(?=[-+\u2212.\d])(?:(?<![\w)])[-+\u2212])?(?:\d++(?:[.,'\u2019_\u00a0\u202f\u2009]\d++)*+|(?<![\d.,])\.\d++)(?:[eE][-+]?\d{1,4}(?![\w.]))?",
    re.ASCII,
)
_GROUPED = re.compile(r"\d{1,3}(?:([.,])\d{3})(?:\1\d{3})*", re.ASCII)
_SPACES = str.maketrans("", "", "'\u2019_\u00a0\u202f\u2009")
_LONGEST = 400
"""Digits of a number; what is longer is none that a task means."""
_EXACT = Context(prec=2 * _LONGEST + 20, Emax=99_999, Emin=-99_999)


def last_number(text: str, decimal: str | None = None) -> Decimal | None:
    """The last number in ``text``, or ``None``. Grouped digits are one number: 1,234.5 and 1'234.5 and 1.234,5.

    ``decimal`` is the decimal sign. Without it the grouping tells: ``1,234`` is a thousand, ``3,14`` is three, and of
    two signs the last is the decimal one.
    """
    found = None
    for found in _NUMBER.finditer(text):  # noqa: B007 - the last one is wanted
        pass
    return None if found is None else _read(found[0], decimal)


def _read(token: str, decimal: str | None) -> Decimal | None:
    token = token.translate(_SPACES).replace("\u2212", "-")
    mantissa, mark, exponent = token.lower().partition("e")
    if len(token) > _LONGEST:
        return None
    sign = mantissa[:1] if mantissa[:1] in "+-" else ""
    digits = _point(mantissa.removeprefix(sign), decimal)
    if digits.count(".") > 1 or "," in digits:
        # 1,2,3 or 10.12.2024: several numbers and no grouping. The last one counts, without a sign of its own.
        sign, digits = "", re.split("[.,]", digits)[-1]
    try:
        return Decimal(f"{sign}{digits}{mark}{exponent}", _EXACT)
    except InvalidOperation:
        return None


def _point(digits: str, decimal: str | None) -> str:
    """``digits`` with grouping marks left out and a point as decimal sign, as far as that can be told."""
    if decimal is None:
        decimal = _decimal_sign(digits)
    if decimal is None:
        return digits
    group = "," if decimal == "." else "."
    whole, mark, rest = digits.rpartition(decimal) if digits.count(decimal) == 1 else (digits, "", "")
    if group in whole and not _GROUPED.fullmatch(whole):
        return digits
    return whole.replace(group, "") + ("." if mark else "") + rest


def _decimal_sign(digits: str) -> str | None:
    if "," in digits and "." in digits:
        return max(",.", key=digits.rfind)
    if "," in digits:
        if _GROUPED.fullmatch(digits):
            return "."
        return "," if digits.count(",") == 1 else None
    return "," if digits.count(".") > 1 and _GROUPED.fullmatch(digits) else "."


def number(value: float | None, *, tolerance: float, relative: float, decimal: str | None) -> Inner:
    """Passes when the last number in the output is the expected one, give or take ``tolerance`` or the share ``relative``."""
    fixed = None if value is None else Decimal(str(value))

    def grade(answer: Answer) -> Grade:
        expected = fixed if fixed is not None else last_number(answer.expected, decimal)
        if expected is None:
            raise Unscored(f"the expected output {shorten(answer.expected)} has no number")
        found = last_number(answer.output, decimal)
        if found is None:
            return plain(False, f"expected the number {_shown(expected)}, found none in {shorten(answer.output)}")
        if _near(expected, found, tolerance, relative):
            return plain(True, f"is the number {_shown(found)}")
        return plain(False, f"expected the number {_shown(expected)}, got {_shown(found)}")

    return grade


def _near(expected: Decimal, found: Decimal, tolerance: float, relative: float) -> bool:
    if expected == found:
        return True
    if not tolerance and not relative:
        return False
    # In decimals: 0.1 + 0.2 is 0.3 here, as it is for the person who wrote the tolerance.
    with localcontext(_EXACT):
        room = max(Decimal(str(tolerance)), Decimal(str(relative)) * abs(expected))
        return abs(expected - found) <= room


def _shown(value: Decimal) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:39]}…"


# --- multiple choice --------------------------------------------------------------------------------------

_BOUNDED = 20_000
"""Only so many characters at the end of an output are searched for a choice."""


class Choices:
    """Finds which of ``letters`` a text chooses."""

    def __init__(self, letters: str) -> None:
        self.letters = letters.upper()
        one = f"[{self.letters}{self.letters.lower()}]"
        upper = f"[{self.letters}]"
        opening, closing = r"[\s*_`\"'(\[{<$]*", r"[\s*_`\"')\]}>$.:,;!]*"
        self._alone = re.compile(rf"{opening}({one}){closing}")
        # A lower-case a or i must end there: in "the answer is a dog" it is an article.
        letter = rf"(?:(?!I\s+[a-z]|[ai]\b)({one})(?![\w'’])|({one})(?=[)\]}}*_`\"'.,;:!]|\s*\Z|\s*\n))"  # noqa: RUF001 - a letter's apostrophe
        linked = r"(?:answer|choice|option|choose)s?\b(?:\s+(?:is|are|was|be|would\s+be)\b\s*[:=]?|\s*[:=])"
        self._said = re.compile(rf"(?i:\b(?:{linked}{opening}(?:(?:option|choice)\b)?|(?:option|choice|choose)\b)){opening}{letter}")
        self._boxed = re.compile(rf"\\boxed\{{\s*(?:\\text\{{\s*)?\(?({one})\)?\s*\}}")
        self._bracketed = re.compile(rf"[(\[]({one})[)\]]")
        self._leading = re.compile(rf"^[\s*_>#-]{{0,8}}({upper})[.):]", re.MULTILINE)

    def find(self, text: str) -> tuple[str, ...]:
        """The letter that ``text`` chooses in upper case; several when it can't be told which, none when there is none.

        Looked for in this order: a text that is the letter alone, the last "answer is X" or boxed letter, letters in
        brackets, letters before a full stop or bracket at the start of a line.
        """
        if len(text) <= 100 and (alone := self._alone.fullmatch(text)):
            return (alone[1].upper(),)
        text = text[-_BOUNDED:]
        told = [found for pattern in (self._said, self._boxed) for found in pattern.finditer(text)]
        if told:
            last = max(told, key=lambda found: found.end())
            return (last[last.lastindex or 0].upper(),)
        for pattern in (self._bracketed, self._leading):
            found = tuple(dict.fromkeys(letter.upper() for letter in pattern.findall(text)))
            if found:
                return found
        return ()


def choice(value: str | None, letters: str) -> Inner:
    """Passes when the output chooses the expected letter; an output that names several and settles on none fails."""
    choices = Choices(letters)

    def grade(answer: Answer) -> Grade:
        text = answer.expected if value is None else value
        expected = choices.find(text)
        if len(expected) != 1:
            raise Unscored(
                f"the expected output {shorten(text)} names {'no' if not expected else 'more than one'} letter of {choices.letters}"
            )
        found = choices.find(answer.output)
        if found == expected:
            return plain(True, f"chooses {expected[0]}")
        got = "got none" if not found else f"got {found[0]}" if len(found) == 1 else f"it names {' and '.join(found)}"
        return plain(False, f"expected {expected[0]}, {got}: {shorten(answer.output)}")

    return grade
