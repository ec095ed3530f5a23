"""What a provider says no with: status, words and headers, written out in each dialect's own error body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Dialect = Literal["openai", "anthropic", "foreign"]
"""Whose manners: OpenAI's, Anthropic's, or those of a third party that speaks chat completions."""


class Refused(Exception):
    """An answer other than the one asked for. ``kind`` and ``code`` are the dialect's own words; empty means its usual ones."""

    def __init__(
        self,
        status: int,
        message: str = "",
        *,
        kind: str = "",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.kind = kind
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    def body(self, dialect: Dialect, request_id: str) -> dict[str, Any]:
        """The JSON body of the HTTP answer."""
        usual = _usual(dialect, self.status)
        message, kind = self.message or usual.message, self.kind or usual.kind
        if dialect == "anthropic":
            error: dict[str, Any] = {"type": kind, "message": message}
            if self.code:
                error["details"] = {"error_code": self.code}
            return {"type": "error", "error": error, "request_id": request_id}
        if dialect == "foreign":
            return {"error": {"message": message, "type": kind, "param": self.param, "code": self.status}}
        code = self.code or (None if self.message else usual.code)
        return {"error": {"message": message, "type": kind, "param": self.param, "code": code}}


class _Usual(NamedTuple):
    kind: str
    message: str
    code: str | None = None


_OPENAI: Mapping[int, _Usual] = {
    400: _Usual("invalid_request_error", "The request is malformed."),
    401: _Usual("invalid_request_error", "Incorrect API key provided: sk-***.", "invalid_api_key"),
    403: _Usual("request_forbidden", "Country, region, or territory not supported", "unsupported_country_region_territory"),
    404: _Usual("invalid_request_error", "The requested resource does not exist.", "model_not_found"),
    405: _Usual("invalid_request_error", "Not allowed.", "method_not_supported"),
    408: _Usual("timeout", "Request timed out.", "request_timeout"),
    409: _Usual("conflict_error", "The resource is being changed by another request.", "conflict"),
    413: _Usual("invalid_request_error", "The request body is too large.", "request_too_large"),
    429: _Usual("requests", "Rate limit reached for requests. Please try again later.", "rate_limit_exceeded"),
    500: _Usual("server_error", "The server had an error while processing your request. Sorry about that!"),
    502: _Usual("server_error", "Bad gateway."),
    503: _Usual("server_error", "The engine is currently overloaded, please try again later."),
    529: _Usual("server_error", "The engine is currently overloaded, please try again later."),
}
_ANTHROPIC: Mapping[int, _Usual] = {
    400: _Usual("invalid_request_error", "The request is malformed."),
    401: _Usual("authentication_error", "invalid x-api-key"),
    403: _Usual("permission_error", "Your API key does not have permission to use the specified resource."),
    404: _Usual("not_found_error", "Not found"),
    405: _Usual("invalid_request_error", "Method Not Allowed"),
    408: _Usual("timeout_error", "Request timed out"),
    409: _Usual("conflict_error", "The resource is being changed by another request."),
    413: _Usual("invalid_request_error", "Request exceeds the maximum size"),
    429: _Usual("rate_limit_error", "This request would exceed your organization's rate limit. Please try again later."),
    500: _Usual("api_error", "Internal server error"),
    502: _Usual("api_error", "Bad gateway"),
    503: _Usual("api_error", "Service unavailable"),
    529: _Usual("overloaded_error", "Overloaded"),
}
_FOREIGN: Mapping[int, _Usual] = {
    400: _Usual("BadRequestError", "Bad request."),
    401: _Usual("AuthenticationError", "Unauthorized"),
    404: _Usual("NotFoundError", "The model does not exist."),
    429: _Usual("RateLimitError", "Too many requests."),
}
_TABLES: Mapping[Dialect, Mapping[int, _Usual]] = {"openai": _OPENAI, "anthropic": _ANTHROPIC, "foreign": _FOREIGN}


def _usual(dialect: Dialect, status: int) -> _Usual:
    found = _TABLES[dialect].get(status)
    if found is not None:
        return found
    kind = {"openai": "server_error", "anthropic": "api_error", "foreign": "InternalServerError"}[dialect]
    return _Usual(kind, f"HTTP {status}")


def unknown_model(dialect: Dialect, name: str) -> Refused:
    """404 in each one's words."""
    if dialect == "anthropic":
        return Refused(404, f"model: {name}")
    if dialect == "foreign":
        return Refused(404, f"The model `{name}` does not exist.", param="model")
    message = f"The model `{name}` does not exist or you do not have access to it."
    return Refused(404, message, code="model_not_found")
