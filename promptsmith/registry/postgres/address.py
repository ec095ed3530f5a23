"""Where the database is: the setting ``registry`` with its variables filled in, and how to speak of it without its secret."""

from __future__ import annotations

import os
import re
from typing import NamedTuple
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ...config import Project, section_problem
from ...errors import SourceError
from ...redact import MASK, redact

_SCHEMES = ("postgresql://", "postgres://")
_WHOLE = "env:"
_PLACES = frozenset({"host", "hostaddr", "port", "dbname", "options", "service", "user"})
_VARIABLE = re.compile(r"\$(?:\{([A-Za-z_][A-Za-z0-9_]*)\}|([A-Za-z_][A-Za-z0-9_]*))")
_FORM = 'registry = "postgresql://user:$PASSWORD_VARIABLE@host/database", or "env:NAME" for a variable that holds all of it'


class Address(NamedTuple):
    """A database. ``url`` may hold a password and is never shown; ``label`` names the same place without one."""

    url: str
    label: str
    secrets: tuple[str, ...] = ()
    place: str = ""
    """Tells this registry from any other on the same server, schemas too; holds no secret."""

    def told(self, error: BaseException) -> str:
        """The first line of an error, without the password."""
        text = str(error).strip() or type(error).__name__
        for secret in self.secrets:
            text = text.replace(secret, MASK)
        return redact(text.partition("\n")[0])


def find_address(project: Project) -> Address:
    """The address in the project's settings. Raises :class:`SourceError`, with the line, for one that can't be used.

    ``$NAME`` and ``${NAME}`` stand for environment variables anywhere in it, ``env:NAME`` as a whole for a variable that
    holds the whole address. Without a password libpq's own ways hold: ``PGPASSWORD``, ``~/.pgpass``.
    """
    setting = project.config.registry
    if setting.startswith(_WHOLE):
        url = _value(project, setting.removeprefix(_WHOLE))
    else:
        url = _VARIABLE.sub(lambda match: quote(_value(project, match[1] or match[2]), safe=""), setting)
    if not url.startswith(_SCHEMES):
        what = (
            "does not begin with postgresql://" if "://" not in setting else f"is of no known kind: {setting.partition('://')[0][:40]}://"
        )
        raise SourceError([section_problem(project, ("registry",), f"registry {what}", f"write {_FORM}")])
    return _parts(url)


def _parts(url: str) -> Address:
    try:
        login, _, host = urlsplit(url).netloc.rpartition("@")
        path, query = urlsplit(url).path, parse_qs(urlsplit(url).query)
    except ValueError:  # libpq will say what is wrong with it
        return Address(url, "postgresql://…", (url,))
    user, _, password = login.partition(":")
    written = [password, *query.get("password", ()), *query.get("sslpassword", ())]
    secrets = {form for secret in written for form in (secret, unquote(secret)) if secret}
    where = host or ",".join(query.get("host", ()))
    label = f"postgresql://{user}{'@' if user else ''}{where}{path}"
    told = sorted((name, value) for name, value in query.items() if name in _PLACES)
    return Address(url, label, tuple(sorted(secrets, key=len, reverse=True)), f"{label}?{told}" if told else label)


def _value(project: Project, name: str) -> str:
    value = os.environ.get(name)
    if not value:
        what = f"registry names the environment variable {name}, which is not set"
        raise SourceError([section_problem(project, ("registry",), what, f"set it, or write {_FORM}")])
    return value


__all__ = ["Address", "find_address"]
