"""Anthropic's official client as a transport: ``AsyncAnthropic`` made here, or any of its kin that the user hands in."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from .sdk import SdkTransport

if TYPE_CHECKING:
    import httpx2


class _Named(msgspec.Struct):
    model: str = ""


# See chat.py.
msgspec.json.Decoder(_Named)


class SdkAnthropic(SdkTransport):
    """Calls through the package ``anthropic``."""

    package = "anthropic"
    protocol = "anthropic"
    home = "api.anthropic.com"
    example = "AsyncAnthropic"

    def _made(self) -> Any:
        import anthropic

        with self._errors:
            client = anthropic.AsyncAnthropic(
                api_key=self._shown_key, base_url=self.base_url or None, max_retries=0, http_client=_backend()
            )
            if client.api_key is None and client.auth_token is None and client.credentials is None:
                # The client itself finds out at its first request, with a TypeError.
                raise self._errors.no_key()
            return client

    async def _send(self, client: Any, path: str, content: Mapping[str, Any], options: Mapping[str, Any]) -> httpx2.Response:
        import httpx2
        from anthropic import AsyncStream

        self._warn(content)
        response: httpx2.Response = await client.post(
            path, cast_to=httpx2.Response, options=options, stream=True, stream_cls=AsyncStream[object], **content
        )
        return response

    @staticmethod
    def _warn(content: Mapping[str, Any]) -> None:
        """What ``messages.create`` would have warned of, for ``post`` does not."""
        from anthropic.resources.messages.messages import DEPRECATED_MODELS

        body = content.get("body")
        model = body.get("model", "") if body is not None else msgspec.json.decode(content["content"], type=_Named).model
        if model in DEPRECATED_MODELS:
            _pass_on(f"The model '{model}' is deprecated and will reach end-of-life on {DEPRECATED_MODELS[model]}")


def _pass_on(text: str) -> None:
    """A warning that is shown even where warnings are errors: a call that was to be paid for must not fail of it."""
    try:
        warnings.warn(text, DeprecationWarning, stacklevel=3)
    except DeprecationWarning as warning:
        warnings.showwarning(warning, DeprecationWarning, __file__, 0)


def _backend() -> httpx2.AsyncClient | None:
    """aiohttp's, which costs half as much as the default, where the package was installed with it."""
    from anthropic import DefaultAioHttpClient

    try:
        return DefaultAioHttpClient()
    except RuntimeError:
        return None
