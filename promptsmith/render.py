"""A prompt and an input become a request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from . import canonical
from .canonical import Scalar
from .chat import Request, Turn
from .contract import as_schema, shorten
from .errors import InputError, StoreError
from .prompt import Prompt, bind, user_turn


class Renderer:
    """Makes the requests of one prompt; what they share is computed once.

    Renderer versions are never removed: a prompt is rendered by the version it was compiled with.
    """

    def __init__(self, prompt: Prompt, *, model: str | None = None, parameters: Mapping[str, Scalar] | None = None) -> None:
        if prompt.renderer > canonical.RENDERER:
            raise StoreError(
                f"prompt {prompt.id[:12]} needs renderer {prompt.renderer}, this promptsmith knows up to {canonical.RENDERER}",
                hint="upgrade promptsmith",
            )
        self._prompt = prompt
        self.template = Request(
            model=model or prompt.model,
            system=prompt.system,
            turns=(),
            parameters={**prompt.parameters, **(parameters or {})},
            static=prompt.id,
            schema=as_schema(prompt.contract),
        )
        self._head = self.template.head()

    def request(self, given: str | Mapping[str, str], *, history: Sequence[Turn] = (), sample: int = 0, appended: str = "") -> Request:
        """The request for one input; earlier turns of a chat stand between the static block and it.

        ``appended`` stands behind the prompt's own instructions: such a request shares its static part with no other.

        Raises :class:`InputError` for missing, unknown or unusable variables.
        """
        text = user_turn(self._prompt.inputs, bind(self._prompt.inputs, given))
        canonical.encode(text)
        for turn in history:
            if not isinstance(turn, Turn) or turn.role not in ("user", "assistant"):
                raise InputError(f"an earlier turn is a Turn('user' or 'assistant', text), not {shorten(repr(turn))}")
        one = self.template
        return Request(
            model=one.model,
            system=f"{one.system}\n\n{appended}" if appended else one.system,
            turns=(*history, Turn("user", text)),
            parameters=one.parameters,
            static="" if appended else one.static,
            schema=one.schema,
            sample=sample,
        )

    def key(self, request: Request) -> str:
        """``request.key()``, without hashing the static part again."""
        return canonical.reply_key(self._head, ((turn.role, turn.text) for turn in request.turns), request.sample)
