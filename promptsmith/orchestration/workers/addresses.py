"""Which hosts and addresses a fetch may connect to.

The lists are those of IANA's special-purpose registries (RFC 6890 and after) as :mod:`ipaddress` has them, and the prefixes in
which another address is hidden: IPv4-mapped and -compatible (RFC 4291), NAT64 (RFC 6052, RFC 8215), 6to4 (RFC 3056), Teredo (RFC 4380).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable

from yarl import URL

from ...errors import InputError, WorkerError

_HIDING = tuple(
    map(ipaddress.ip_network, ("::/96", "::ffff:0:0/96", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "fec0::/10"))
)
_HOST = re.compile(r"(?:\*\.)?[a-z0-9_](?:[a-z0-9_-]*)(?:\.[a-z0-9_-]+)*|[0-9a-f:.]+")
_NUMBER = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)\.?")
_SCHEMES = ("http", "https")


def parsed(text: str) -> URL:
    """``text`` as the address that will be called, its host in lower case. Raises :class:`WorkerError` for what is none."""
    if not text or re.search(r"[\s\x00-\x20\x7f\\]", text):
        raise WorkerError(f"{_short(text)} is no address: it is empty, or has blanks or a backslash in it")
    try:
        url = URL(text)
        scheme, host, port = url.scheme, url.raw_host, url.port
    except ValueError as error:
        raise WorkerError(f"{_short(text)} is no address: {error}") from None
    if scheme not in _SCHEMES:
        raise WorkerError(f"{_short(text)} is fetched by {scheme or 'nothing'}", hint="only http:// and https:// addresses are fetched")
    if not host or not port:
        raise WorkerError(f"{_short(text)} names no host")
    if url.raw_user is not None or url.raw_password is not None:
        # Not repeated: a password in it would stand in logs.
        raise WorkerError("the address has a user or password before its host, which is never sent", hint="name the host alone")
    return url.with_fragment(None)


def check_host(url: URL, hosts: Iterable[str], ports: Collection[int]) -> None:
    """Nothing. Raises :class:`WorkerError` when the host or the port is not on the list."""
    host = host_of(url)
    if _is_number(host):
        raise WorkerError(
            f"the host {host!r} is a number that some programs read as an address", hint="write a name, or a usual IP address"
        )
    if not any(_matches(host, allowed) for allowed in hosts):
        raise WorkerError(f"the host {host!r} is not among those that this worker may fetch from", hint="hosts in its settings lists them")
    if url.port not in ports:
        listed = ", ".join(map(str, sorted(ports)))
        raise WorkerError(
            f"the port {url.port} is not among those that this worker may connect to", hint=f"ports in its settings: {listed}"
        )


def host_of(url: URL) -> str:
    """The host as it is compared: in lower case, without a final dot, IPv6 without brackets."""
    return (url.raw_host or "").lower().rstrip(".")


def is_address(host: str) -> bool:
    """Whether the host is an IP address in its usual form, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def check_address(address: str, port: int, allowed: Collection[str]) -> None:
    """Nothing. Raises :class:`WorkerError` for an address that is not public, unless ``allowed`` has it as ``address:port``."""
    if socket_name(address, port) in allowed:
        return
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        raise WorkerError(f"{address!r} is no IP address") from None
    hidden = found.version == 6 and (getattr(found, "scope_id", None) is not None or any(found in network for network in _HIDING))
    if hidden or not found.is_global or found.is_multicast or found.is_reserved or found.is_unspecified:
        raise WorkerError(f"the address {found} is not a public one, and only public ones are fetched from")


def socket_name(address: str, port: int) -> str:
    """``address:port``, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def check_pattern(host: str) -> None:
    """Nothing. Raises :class:`InputError` for an entry of the list of hosts that could never match, or would match too much."""
    if not _HOST.fullmatch(host):
        raise InputError(
            f"{host!r} is no host",
            hint="write a host such as docs.example.com (no scheme, port or path, in lower case), or *.example.com for all below it",
        )
    if host.startswith("*.") and "." not in host[2:]:
        raise InputError(f"{host!r} would allow a whole top-level domain", hint="name the domain too: *.example.com")


def _matches(host: str, allowed: str) -> bool:
    return host.endswith(allowed[1:]) and host != allowed[2:] if allowed.startswith("*.") else host == allowed


def _is_number(host: str) -> bool:
    """Whether a browser or resolver would read the host as an IPv4 address written otherwise (WHATWG URL, "ends in a number")."""
    return _NUMBER.fullmatch(host.rpartition(".")[2]) is not None and not is_address(host)


def _short(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:119] + "…")
