"""What is dangerous in a prompt: secrets, personal data, an open place for user input."""

from __future__ import annotations

import re
from collections.abc import Iterator

from ...redact import has_secret
from .findings import LintFinding
from .reading import SLOT, Subject, numbered


def secrets(subject: Subject) -> Iterator[LintFinding]:
    """No key, token or password."""
    for number, line in numbered(subject.text):
        if has_secret(line):
            yield LintFinding("secret", number, "holds what looks like a key, a token or a password")


_PASSWORD = re.compile(
    r"(?i)\b(?:password|passphrase|passwd|pwd|secret|api[-_ ]?key|(?:access|auth|api)[-_ ]?token)s?\b[\"']?\s*(?:is|[:=])\s*[\"'`]?(?=\S*\d)(?=\S*[a-z])[^\s\"'`{}<>$]{6,}"
)


def more_secrets(subject: Subject) -> Iterator[LintFinding]:
    """What is called a password or key and looks like one: letters and digits, six or more."""
    for number, line in numbered(subject.text):
        if _PASSWORD.search(line):
            yield LintFinding("secret", number, "holds what looks like a key, a token or a password")


_EMAIL = re.compile(r"(?<![\w.+-])([A-Za-z0-9][\w.+-]*)@(?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)+[A-Za-z]{2,}\b")
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://\S+")
_NOBODY = frozenset(
    "abuse accounts admin billing booking bookings care careers contact customer customercare customerservice email enquiries example feedback firstname "
    "hello help helpdesk hr info inquiries invoice invoices jobs legal mail marketing me name no-reply noreply office orders postmaster press privacy "
    "recipient returns sales security sender service services shop someone somebody subscribe support team test unsubscribe user username webmaster you "
    "your-name your.name yourname first.last firstname.lastname name.surname".split()
)
"""What stands before the @ of an address of a desk, or of nobody."""
_PHONE = re.compile(
    r"(?<![\w+.,/=-])(?:\+[1-9]\d{0,2}(?:[ .-]?\(0\))?(?:[ ./-]?\(?\d{1,5}\)?){2,6}|\([2-9]\d\d\) ?\d{3}[ .-]\d{4}|[2-9]\d\d[ .-][2-9]\d\d[ .-]\d{4}|"
    r"\(?0[1-9]\d{1,4}\)?(?: ?[ /-] ?\d{2,8}){1,4}|0[1-9](?:[ .]\d\d){4})(?![\w-])(?![.,]\d)"
)
_FREE = re.compile(r"(?:\+?1)?8(?:00|33|44|55|66|77|88)\d{7}$|(?:0|\+44|\+49)80[08]\d+$|0900\d+$")
_IBAN = re.compile(r"\b[A-Z]{2}\d\d(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_IBAN_LENGTHS = (15, 34)


def personal_data(subject: Subject) -> Iterator[LintFinding]:
    """No address, number or account of a person. What is found is not repeated: the finding ends up in logs."""
    for number, line in numbered(subject.text):
        for what, found in (("an e-mail address", _emails(line)), ("a phone number", _phones(line)), ("an IBAN", _ibans(line))):
            for text in found:
                yield LintFinding("personal-data", number, f"holds what looks like {what} ({_masked(text)})")


def _emails(line: str) -> list[str]:
    return [match[0] for match in _EMAIL.finditer(_URL.sub(" ", line)) if match[1].lower() not in _NOBODY]


def _phones(line: str) -> list[str]:
    """Numbers of 9 to 15 digits (ITU-T E.164) written as phone numbers are; those that are free to call are a firm's."""
    without = _IBAN.sub(lambda match: " " * len(match[0]), line)
    found = [match[0] for match in _PHONE.finditer(without)]
    return [text for text in found if 9 <= len(_digits(text)) <= 15 and not _FREE.match(re.sub(r"[^\d+]", "", text))]


def _ibans(line: str) -> list[str]:
    return [match[0] for match in _IBAN.finditer(line) if is_iban(match[0])]


def is_iban(text: str) -> bool:
    """Whether the check digits are right (ISO 13616, ISO 7064 mod 97-10)."""
    plain = text.replace(" ", "")
    if not _IBAN_LENGTHS[0] <= len(plain) <= _IBAN_LENGTHS[1]:
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def _digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _masked(text: str) -> str:
    return f"{text[:2]}…{text[-2:]}"


# --- a place for user input -------------------------------------------------------------------------------

_TAG = re.compile(r"<(/?)([A-Za-z_][\w-]*)[^<>]*>")
_RULER = re.compile(r"^\s*(`{3,}|~{3,}|\"{3}|'{3}|-{3,}|={3,}|#{3,}\s*$)")


def open_inputs(subject: Subject) -> Iterator[LintFinding]:
    """Where a placeholder would put input among the instructions, a fence must show where it begins and ends."""
    depth, ruled = 0, False
    own = subject.description + subject.allowed
    for number, line in numbered(subject.text):
        if _RULER.match(line):
            ruled = not ruled
        for match in re.finditer(f"{SLOT.pattern}|{_TAG.pattern}", line):
            tag = _TAG.fullmatch(match[0])
            if tag:
                depth = max(0, depth + (-1 if tag[1] else 1))
            elif not depth and not ruled and match[0] not in own:
                yield LintFinding("open-input", number, f"{match[0]!r} would put input among the instructions, with no fence around it")
