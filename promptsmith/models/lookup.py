"""Models by name: the builtin ones and those of other packages (entry points), through one door."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING

from ..errors import ModelError, PromptsmithError, UnknownName, did_you_mean
from .nearest import NAME as NEAREST
from .protocol import Model

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

ENTRY_POINTS = "promptsmith.models"
"""The entry point group of other packages: a name (``endpoint`` or ``endpoint/model``) and a factory taking the full name."""

Factory = Callable[[str], Model]


def _nearest(_name: str) -> Model:
    from .nearest import Nearest

    return Nearest()


_BUILTIN: Mapping[str, Factory] = {NEAREST: _nearest}


def find_model(name: str, given: Collection[str] = ()) -> Model:
    """The model called ``name``. Raises :class:`UnknownName` with the nearest known name, those ``given`` included."""
    return _factory(name, given)(name)


def check_model_name(name: str, given: Collection[str] = ()) -> str:
    """Itself, when it is one of those ``given`` or there is such a model; raises like :func:`find_model` but makes none."""
    if name not in given:
        _factory(name, given)
    return name


def model_names() -> list[str]:
    """All names that are known before asking a provider; ``endpoint/…`` stands for any model of an endpoint."""
    return sorted({*_BUILTIN, *(name if "/" in name else f"{name}/…" for name in _installed())})


def _factory(name: str, given: Collection[str]) -> Factory:
    builtin = _BUILTIN.get(name)
    if builtin is not None:
        return builtin
    installed = _installed()
    found = installed.get(name) or installed.get(name.partition("/")[0])
    if found is None:
        known = sorted({*_BUILTIN, *installed, *given})
        near = did_you_mean(name, known) or _near_endpoint(name, known)
        raise UnknownName(f"unknown model {name!r}", hint=near or f"known here: {', '.join(known)}")
    if len(found) > 1:
        claims = " and ".join(f"{entry.value} (package {entry.dist.name if entry.dist else '?'})" for entry in found)
        raise UnknownName(
            f"the model name {found[0].name!r} is claimed by several plugins: {claims}", hint="uninstall all of these packages but one"
        )
    return partial(_make, found[0])


def _near_endpoint(name: str, known: Collection[str]) -> str:
    """The same model at the endpoint whose name looks like the one that ``name`` begins with."""
    head, slash, model = name.partition("/")
    heads = sorted({one.partition("/")[0] for one in known})
    return did_you_mean(name, [f"{one}/{model}" for one in heads if did_you_mean(head, [one])]) if slash else did_you_mean(head, heads)


def _installed() -> dict[str, list[EntryPoint]]:
    """The plugins by the name that they claim; more than one for a name is an error once that name is asked for."""
    from importlib.metadata import entry_points

    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=ENTRY_POINTS):
        if entry.name in _BUILTIN or entry.name == "builtin":
            warnings.warn(f"the model plugin {entry.value} claims the name {entry.name!r}, which is taken; it is ignored", stacklevel=2)
            continue
        found.setdefault(entry.name, []).append(entry)
    return found


def _make(entry: EntryPoint, name: str) -> Model:
    """A model of another package. Whatever goes wrong there is reported with the plugin's name."""
    plugin = f"the model plugin {entry.name!r} ({entry.value})"
    try:
        factory = entry.load()
    except Exception as error:  # importing somebody else's module can fail in any way
        raise ModelError(f"{plugin} can't be loaded: {error}") from error
    try:
        model = factory(name)
    except PromptsmithError:
        raise
    except Exception as error:  # and so can calling it
        raise ModelError(f"{plugin} can't make {name!r}: {type(error).__name__}: {error}") from error
    if not isinstance(model, Model):
        raise ModelError(f"{plugin} made {type(model).__name__}, which is no model")
    return model
