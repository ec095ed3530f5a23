"""Who is signed in on the pages: a cookie that the service has signed, and the tokens of its forms."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path

from ..store.whole import drafted
from .keys import Key, KeyStore

COOKIE = "promptsmith_session"
HOURS = 12
_SIZE = 32


class Sessions:
    """Sessions last 12 hours, and as long as their key is in force. ``path`` holds the secret that all workers sign with."""

    def __init__(self, path: Path, keys: KeyStore) -> None:
        self._secret = _secret(path)
        self._keys = keys

    def begun(self, key: Key) -> str:
        """The cookie's value for somebody who has shown ``key``. The key itself is not in it."""
        payload = f"{key.digest[:32]}.{int(time.time()) + HOURS * 3600}.{secrets.token_urlsafe(12)}"
        return f"{payload}.{self._signed('session', payload)}"

    def key(self, cookie: str) -> Key | None:
        """The key of a session; ``None`` for one that is over, was not begun here, or whose key was revoked."""
        payload, _, signature = cookie.rpartition(".")
        if not payload or not hmac.compare_digest(self._signed("session", payload).encode(), signature.encode("utf-8", "replace")):
            return None
        digest, ends, _ = payload.split(".")
        if int(ends) < time.time():
            return None
        known = self._keys.keys()
        return next((key for key in known if key.revoked is None and key.digest.startswith(digest)), None)

    def token(self, cookie: str) -> str:
        """What each form of a session sends back, which no other site can know (OWASP: HMAC-based token pattern)."""
        return self._signed("form", cookie)

    def is_token(self, cookie: str, token: str) -> bool:
        """Whether a form came from a page of this session."""
        return hmac.compare_digest(self.token(cookie).encode(), token.encode("utf-8", "replace"))

    def seal(self, cookie: str, words: str) -> str:
        """What goes with words of ours through an address, so that nobody else can put words there."""
        return self._signed("words", f"{cookie}\n{words}")

    def is_seal(self, cookie: str, words: str, seal: str) -> bool:
        """Whether the words are ours, said in this session."""
        return hmac.compare_digest(self.seal(cookie, words).encode(), seal.encode("utf-8", "replace"))

    def _signed(self, what: str, text: str) -> str:
        made = hmac.digest(self._secret, f"{what}\n{text}".encode("utf-8", "replace"), hashlib.sha256)
        return base64.urlsafe_b64encode(made).decode().rstrip("=")


def _secret(path: Path) -> bytes:
    """The secret in ``path``, made when there is none; of two processes that make one at once, one's holds."""
    for _ in range(2):
        try:
            found = binascii.unhexlify(path.read_bytes())
        except (OSError, ValueError):
            found = b""
        if len(found) == _SIZE:
            return found
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with drafted(path, secrets.token_bytes(_SIZE).hex().encode(), mode=0o600) as draft:
            if found or path.exists():
                os.replace(draft, path)  # a damaged one
            else:
                try:
                    os.link(draft, path)
                except FileExistsError:
                    continue
                except OSError:
                    os.replace(draft, path)  # a file system without links
    return binascii.unhexlify(path.read_bytes())
