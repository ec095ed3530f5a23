"""Whose certificates are believed."""

from __future__ import annotations

import os
import ssl

from ...errors import InputError


def trusted() -> bool | ssl.SSLContext:
    """The certificate authorities: the system's (``True``), or those of ``SSL_CERT_FILE`` / ``SSL_CERT_DIR`` as set now."""
    named = [(name, os.environ[name]) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if os.environ.get(name)]
    if not named:
        return True  # aiohttp's own context, made of the system's when it was loaded: 10 ms less than another one
    for name, path in named:
        if not os.path.exists(path):
            raise InputError(f"{name} names {path}, which does not exist", hint=f"unset {name}, or name a file with certificates")
    return ssl.create_default_context()
