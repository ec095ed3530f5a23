"""Identity: the only place that decides which things are the same thing.

Everything is sha256 over RFC 8785 (JCS) bytes of small objects made of strings, integers, booleans and
digests. Texts enter as they will stand in the prompt; large parts enter as their own sha256. JCS hashes
1 and 1.0 alike and refuses integers beyond 2**53, so numbers that users chose enter as decimal strings.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import rfc8785

from .errors import InputError

Json = str | int | bool | None | Sequence["Json"] | Mapping[str, "Json"]
Scalar = str | int | float | bool | None

RENDERER = 1
"""How a prompt and an input become a request. Raised when the bytes would change; old ones keep working."""

COMPILER_EPOCH = 1
"""Raised when the compiler's output for the same inputs should change."""

_INT_MOST = 2**53 - 1


def sha256(data: str | bytes) -> str:
    """64 hex digits. Raises :class:`InputError` for text that is not valid Unicode."""
    return hashlib.sha256(encode(data) if isinstance(data, str) else data).hexdigest()


def encode(text: str) -> bytes:
    """UTF-8 bytes. Raises :class:`InputError` naming the place of a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        raise InputError(
            f"the text has a lone surrogate (U+{code:04X}) at character {error.start + 1}, which no UTF-8 text can hold",
            hint="decode the source with the right encoding, or replace the character",
        ) from None


def digest(value: Json) -> str:
    """sha256 (64 hex digits) of the RFC 8785 form of a small object."""
    try:
        return hashlib.sha256(_jcs(value)).hexdigest()
    except (rfc8785.CanonicalizationError, UnicodeEncodeError) as error:
        surrogate = isinstance(error.__cause__ or error, UnicodeEncodeError)
        reason = "it holds a lone surrogate, which no UTF-8 text can" if surrogate else error
        raise InputError(f"this can't be given an identity: {reason}") from None


def _jcs(value: Json) -> bytes:
    # Most objects are such that JSON in the order of its keys is their RFC 8785 form, for a fifth of the time.
    return msgspec.json.encode(value, order="deterministic") if _is_plain(value) else rfc8785.dumps(value)


def _is_plain(value: object) -> bool:
    """Whether ``value`` holds no number that RFC 8785 writes otherwise or refuses, and no key that it sorts otherwise."""
    if type(value) is str or type(value) is bool or value is None:
        return True
    if type(value) is int:
        return -_INT_MOST <= value <= _INT_MOST
    if type(value) is dict:
        for name, item in value.items():  # a loop, not all(): this is done several times for each prompt and request
            if type(name) is not str or not name.isascii() or not (type(item) is str or _is_plain(item)):
                return False
        return True
    return (type(value) is list or type(value) is tuple) and all(map(_is_plain, value))


def decimal(value: Scalar) -> Json:
    """A parameter as identity sees it: floats as their shortest decimal string, the rest unchanged.

    ``1`` and ``1.0`` stay different, as do ``True`` and ``1``.
    """
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, float):
        return f"float:{value!r}"
    if isinstance(value, int):
        return f"int:{value}"
    if isinstance(value, str):
        return f"str:{value}"
    raise InputError(f"a parameter must be text, a number, true, false or null, not {type(value).__name__}")


def parameters(values: Mapping[str, Scalar]) -> Json:
    """All parameters of a model as identity sees them."""
    return {name: decimal(value) for name, value in values.items()}


def prompt_id(*, system: str, contract: str, model: str, params: Mapping[str, Scalar], layout: str, renderer: int) -> str:
    """Identity of a compiled prompt. ``contract`` is the contract's digest, ``layout`` the user turn's."""
    return digest(
        {
            "kind": "prompt",
            "system": sha256(system),
            "contract": contract,
            "model": model,
            "parameters": parameters(params),
            "layout": layout,
            "renderer": renderer,
        }
    )


def build_parts(
    *,
    description: str,
    prompt: str | None,
    inputs: str,
    contract: str,
    examples: Sequence[str],
    constraints: Sequence[str],
    model: str,
    params: Mapping[str, Scalar],
    level: int,
    options: Mapping[str, Scalar],
    seed: int,
    data_seed: int | None = None,
    scorers: Sequence[str] | None = None,
) -> dict[str, str]:
    """Everything that a user's choice of words, data, model and options contributes to a build, one digest a part.

    ``data_seed`` and ``scorers`` (what decides how candidates are graded, one text each) are parts where candidates are
    scored, and absent where none is.

    ``examples`` and ``constraints`` are the very lines that could stand in the prompt, ``contract`` is a digest.
    Names, comments, holdout, gate, serve policy, concurrency and time limits are no part of it.
    """
    scored: dict[str, str] = {}
    if data_seed is not None:
        scored["data_seed"] = digest([f"int:{data_seed}"])
    if scorers is not None:
        scored["scorers"] = digest([sha256(version) for version in scorers])
    return {
        "task": digest([sha256(description)]),
        "prompt": digest([None if prompt is None else sha256(prompt)]),
        "inputs": digest([inputs]),
        "contract": contract,
        "examples": digest([sha256(line) for line in examples]),
        "constraints": digest([sha256(line) for line in constraints]),
        "model": digest([model, parameters(params)]),
        "options": digest([level, parameters(options)]),
        "seed": digest([f"int:{seed}"]),
        **scored,
    }


def build_key(parts: Mapping[str, str], *, epoch: int = COMPILER_EPOCH, meta: Json = None) -> str:
    """Identity of a build: the user's parts, the compiler's epoch, and from ``-O1`` the meta-model with its prompts."""
    return digest({"kind": "build", "parts": dict(parts), "epoch": epoch, "meta": meta})


UNKEYED = frozenset({"stream", "cache_marks", "cache_key", "transport", "timeout", "credentials"})
"""The closed list of request options that do not change what a model would answer."""


def reply_head(*, static: str, schema: str, endpoint: str, model: str, params: Mapping[str, Scalar], options: Mapping[str, Scalar]) -> str:
    """What all requests with one prompt share; computed once. ``static`` is a prompt id or a text's digest."""
    kept = {name: value for name, value in options.items() if name not in UNKEYED}
    return digest(
        {
            "kind": "reply",
            "static": static,
            "schema": sha256(schema),
            "endpoint": endpoint,
            "model": model,
            "parameters": parameters(params),
            "options": parameters(kept),
        }
    )


def reply_key(head: str, turns: Iterable[tuple[str, str]], sample: int = 0) -> str:
    """Identity of one request: its head, the turns' roles and texts, and the sample index."""
    state = hashlib.sha256(f"{head}:{sample:d}".encode())
    for role, text in turns:
        data = encode(text)
        # Length-prefixed, so no text can imitate the border between two turns.
        state.update(f";{role}:{len(data)}:".encode())
        state.update(data)
    return state.hexdigest()


def normalise(text: str) -> str:
    """A text without the differences that do not make another case: Unicode form, case, blanks."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def input_digest(inputs: Mapping[str, str]) -> str:
    """Identity of a row's input: the same for texts that normalise to the same."""
    return digest({name: normalise(text) for name, text in inputs.items()})


def case_id(inputs: Mapping[str, str]) -> str:
    """The id of a row that names none: 12 hex digits of its normalised input."""
    return input_digest(inputs)[:12]


def fraction(*parts: str) -> float:
    """A number in [0, 1) that depends on nothing but ``parts``: fixed thresholds split rows by it."""
    return int(digest(list(parts))[:13], 16) / 16**13
