"""OpenAI's official client as a transport: ``AsyncOpenAI`` made here, or any of its kin that the user hands in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .sdk import SdkTransport

if TYPE_CHECKING:
    import httpx2


class SdkOpenAI(SdkTransport):
    """Calls through the package ``openai``."""

    package = "openai"
    protocol = "openai"
    home = "api.openai.com"
    example = "AsyncOpenAI"

    def _made(self) -> Any:
        import openai

        with self._errors:
            return openai.AsyncOpenAI(api_key=self._shown_key, base_url=self.base_url or None, max_retries=0, http_client=_backend())

    async def _send(self, client: Any, path: str, content: Mapping[str, Any], options: Mapping[str, Any]) -> httpx2.Response:
        import httpx2
        from openai import AsyncStream

        response: httpx2.Response = await client.post(
            path, cast_to=httpx2.Response, options=options, stream=True, stream_cls=AsyncStream[object], **content
        )
        return response


def _backend() -> httpx2.AsyncClient | None:
    """aiohttp's, which costs half as much as the default, where the package was installed with it."""
    from openai import DefaultAioHttpClient

    try:
        return DefaultAioHttpClient()
    except RuntimeError:
        return None
