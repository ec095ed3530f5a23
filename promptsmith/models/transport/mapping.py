"""What goes wrong on the way to a provider, as our errors: one place for aiohttp's, the official clients' and the system's.

The modules whose errors these are get imported only where one of them was raised, so only where they are loaded.
"""

from __future__ import annotations

import socket
import ssl
import sys
from types import TracebackType
from typing import Any

from ...errors import (
    AuthenticationFailed,
    InputError,
    MalformedReply,
    PromptsmithError,
    ProviderDown,
    ProviderError,
    TimedOut,
)

_TLS_HINT = "a company's own certificate authority is named by SSL_CERT_FILE=/path/to/ca.pem; the system's are used otherwise"


class NotHttp(Exception):
    """What came is not HTTP/1.1 as it should be, or not what was asked for; it says what is wrong with it."""


class mapped_errors:  # noqa: N801  # reads as what it is: with mapped_errors("openai"): …
    """Turns what a transport raises into :class:`ProviderError` and kin; our own errors and cancellation pass.

    A class and not a generator: entering and leaving costs a fifth on every call. ``address`` is named in messages,
    ``key_variable`` is the environment variable to set when there is no key.
    """

    __slots__ = ("_address", "_key_variable", "_provider")

    def __init__(self, provider: str, *, address: str = "", key_variable: str = "") -> None:
        self._provider, self._address, self._key_variable = provider, address, key_variable

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, PromptsmithError):
            return
        mapped = self.mapped(error)
        if mapped is not None:
            try:
                raise mapped from error
            finally:
                # Its traceback holds this frame: together they would stay until the garbage collector comes, which is seldom.
                del mapped, error, trace

    def mapped(self, error: Exception) -> PromptsmithError | None:
        """Our error for ``error``; ``None`` for what no transport raises (a mistake of ours must stay visible)."""
        if isinstance(error, NotHttp):
            return self._garbled(error)
        told = self._sdk(error)
        if told is not None:
            return told
        causes = _causes(error)
        for look in (self._aiohttp, self._system):  # aiohttp knows which part of the way it was, the system only what
            for cause in causes:
                found = look(cause)
                if found is not None:
                    return found
        return self._httpx2(error) or self._sdk_lost(error)

    # --- whose error it is ----------------------------------------------------------------------------

    def _aiohttp(self, error: BaseException) -> PromptsmithError | None:
        if "aiohttp" not in sys.modules:
            return None
        import aiohttp

        if not isinstance(error, aiohttp.ClientError):
            return None
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientSSLError | aiohttp.ClientHttpProxyError):
            return self._unconnected(error)
        if isinstance(error, aiohttp.ServerTimeoutError):
            return self._slow(error)
        if isinstance(error, aiohttp.InvalidURL):
            return InputError(f"the address {self._there} can't be called: {_text(error)}")
        if isinstance(error, aiohttp.ClientResponseError) or (isinstance(error, aiohttp.ClientPayloadError) and _undecodable(error)):
            return self._garbled(error)
        return self._broken(error)

    def _unconnected(self, error: Exception) -> PromptsmithError:
        import aiohttp

        match error:
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return self._untrusted(error)
            case aiohttp.ClientHttpProxyError():
                return self._down(
                    f"the proxy refused the connection to {self._there}: {error.status} {error.message}",
                    hint="HTTPS_PROXY names it; NO_PROXY excepts hosts",
                    retryable=False,
                    counted=False,
                )
            case aiohttp.ClientProxyConnectionError():
                hint = "HTTPS_PROXY names it; NO_PROXY excepts hosts"
                return self._down(f"the proxy {error.host}:{error.port} can't be reached", hint=hint, counted=False)
            case aiohttp.ClientConnectorError():
                return self._system(error.os_error) or self._unreached(error)
        return self._unreached(error)

    def _system(self, error: BaseException) -> PromptsmithError | None:
        if isinstance(error, TimeoutError):
            return self._slow(error)
        if isinstance(error, ssl.SSLError):
            return self._untrusted(error)
        if isinstance(error, socket.gaierror):
            known = error.errno != socket.EAI_NONAME
            return self._down(f"the host of {self._there} can't be found", hint="is the base URL right?", retryable=known, counted=False)
        if isinstance(error, ConnectionRefusedError):
            return self._down(f"nothing answers at {self._there}", hint="is the server running?", counted=False)
        if isinstance(error, (ConnectionError, EOFError)):
            return self._broken(error)
        if isinstance(error, OSError):
            return self._unreached(error)
        return None

    def _sdk(self, error: Exception) -> PromptsmithError | None:
        """For what a client has found out itself; for what went wrong on the way, its cause says more."""
        for name, base in (("openai", "OpenAIError"), ("anthropic", "AnthropicError")):
            sdk: Any = sys.modules.get(name)
            if not hasattr(sdk, base) or not isinstance(error, getattr(sdk, base)) or isinstance(error, sdk.APIConnectionError):
                continue  # not loaded, or another thread is just loading it and no error can be one of its own
            if isinstance(error, sdk.APIStatusError):
                return self._status(error)
            return self._garbled(error) if isinstance(error, sdk.APIError) else self.no_key(error)
        return None

    def _sdk_lost(self, error: Exception) -> PromptsmithError | None:
        """For a client's connection error whose cause is of no kind that is known here."""
        modules = [sys.modules.get(name) for name in ("openai", "anthropic")]
        kinds = tuple(module.APIConnectionError for module in modules if module is not None and hasattr(module, "APIConnectionError"))
        return self._unreached(error.__cause__ or error) if isinstance(error, kinds) else None

    def _httpx2(self, error: Exception) -> PromptsmithError | None:
        httpx2: Any = sys.modules.get("httpx2")
        if not hasattr(httpx2, "RequestError"):
            return None
        error = next((cause for cause in _causes(error) if isinstance(cause, httpx2.RequestError)), error)
        if isinstance(error, httpx2.TimeoutException):
            return self._slow(error)
        if isinstance(error, (httpx2.ConnectError, httpx2.ProxyError)):
            return self._unreached(error)
        if isinstance(error, httpx2.DecodingError):
            return self._garbled(error)
        if isinstance(error, (httpx2.InvalidURL, httpx2.UnsupportedProtocol, httpx2.LocalProtocolError)):
            return InputError(f"the address {self._there} can't be called: {_text(error)}")
        return self._broken(error) if isinstance(error, (httpx2.TransportError, httpx2.StreamError)) else None

    # --- what it is called ----------------------------------------------------------------------------

    @property
    def _there(self) -> str:
        return self._address or self._provider

    def no_key(self, error: Exception | None = None) -> PromptsmithError:
        """There is nothing to show to the provider."""
        variable = self._key_variable
        said = f"{variable} is not set" if variable else _text(error) if error is not None else "none is set"
        hint = f"export {variable}=…, or write it into .env" if variable else ""
        return AuthenticationFailed(f"there is no key for {self._provider}: {said}", provider=self._provider, hint=hint)

    def _status(self, error: Any) -> ProviderError:
        """For a status that reaches us as an error, as in fetching a credential; answers to calls are the codec's to read."""
        from ..wire.failures import response_error

        answer = error.response
        request_id = str(getattr(error, "request_id", None) or "")
        return response_error(error.status_code, answer.headers, answer.content, provider=self._provider, request_id=request_id)

    def _down(self, message: str, *, hint: str = "", retryable: bool | None = None, counted: bool | None = None) -> ProviderDown:
        return ProviderDown(message, provider=self._provider, hint=hint, retryable=retryable, counted=counted)

    def _slow(self, error: BaseException) -> TimedOut:
        if "onnect" in type(error).__name__:
            return TimedOut(f"{self._there} could not be connected to in time", provider=self._provider, counted=False)
        return TimedOut(f"{self._there} did not answer in time", provider=self._provider)

    def _untrusted(self, error: BaseException) -> ProviderDown:
        return self._down(f"the connection to {self._there} is not trusted: {_text(error)}", hint=_TLS_HINT, retryable=False, counted=False)

    def _unreached(self, error: BaseException) -> ProviderDown:
        return self._down(f"{self._there} can't be reached: {_text(error)}", counted=False)

    def _broken(self, error: BaseException) -> ProviderDown:
        return self._down(f"{self._there} broke the connection off: {_text(error)}")

    def _garbled(self, error: BaseException) -> MalformedReply:
        return MalformedReply(f"what {self._there} sent is not HTTP as it should be: {_text(error)}", provider=self._provider)


def _causes(error: BaseException) -> list[BaseException]:
    """The error that was raised first, and those that were raised from it, nearest to the network first."""
    chain = [error]
    while (cause := chain[-1].__cause__) is not None and len(chain) < 8:
        chain.append(cause)
    return chain[::-1]


def _undecodable(error: BaseException) -> bool:
    return "content-encoding" in str(error).lower()


def _text(error: BaseException) -> str:
    """The error's own words in one short line."""
    said = " ".join(str(error).split())
    return said[:300] or type(error).__name__
