"""Takes secrets out of text before it is stored or shown."""

from __future__ import annotations

import re

MASK = "[redacted]"

_KEYS = r"""
      \bsk-(?:ant-|proj-|svcacct-)?[A-Za-z0-9_-]{16,}          # OpenAI and Anthropic API keys
    | \bps_[A-Za-z0-9_-]{40,}                                   # the service's own
    | \bgh[pousr]_[A-Za-z0-9]{30,}                              # GitHub tokens
    | \bgithub_pat_[A-Za-z0-9_]{30,}
    | \bglpat-[A-Za-z0-9_-]{20,}                                # GitLab
    | \bxox[abprs]-[A-Za-z0-9-]{10,}                            # Slack
    | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                             # AWS access key ids
    | \bAIza[A-Za-z0-9_-]{35}                                   # Google API keys
    | \beyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{5,}   # JSON Web Tokens (RFC 7519)
    | -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----.*?(?:-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|\Z)
    """
_HEADER = r"""(?i)\b(authorization["']?\s*[:=]?\s*["']?(?:bearer|basic)\s+|x-api-key["']?\s*[:=]\s*["']?)[^\s"']+"""
_URL_LOGIN = r"(?i)\b([a-z][a-z0-9+.-]*://[^/\s:@]*):[^/\s@]+@"


def redact(text: str) -> str:
    """``text`` with API keys, tokens, private keys and passwords in URLs replaced by ``[redacted]``."""
    # Compiled by re when first used, which takes 1 ms: only errors and drafts are looked at.
    text = re.sub(_KEYS, MASK, text, flags=re.VERBOSE | re.DOTALL)
    text = re.sub(_HEADER, rf"\1{MASK}", text)
    return re.sub(_URL_LOGIN, rf"\1:{MASK}@", text)


def has_secret(text: str) -> bool:
    """Whether :func:`redact` would change ``text``."""
    return redact(text) != text


def may_hold_secret(text: str) -> bool:
    """Whether :func:`redact` could change ``text``: a look of 1 µs instead of 10, wrong on the safe side only."""
    if not text.isascii():
        return True  # ignoring case, a pattern takes some letters of other scripts for ours
    text = text.lower()
    # How each of the patterns begins, or what is within it. A loop would take twice as long.
    return (
        "sk-" in text or "ghp_" in text or "gho_" in text or "ghu_" in text or "ghs_" in text or "ghr_" in text or "github_pat_" in text
        or "ps_" in text or "glpat-" in text or "xox" in text or "akia" in text or "asia" in text or "aiza" in text or "eyj" in text
        or "-----begin" in text or "authorization" in text or "x-api-key" in text or "://" in text
    )  # fmt: skip
