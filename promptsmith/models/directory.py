"""Every model that a project can call, by its full name, with its limits, retries and price around it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

from ..chat import Request
from ..config import ENDPOINTS, Endpoint, Limit, Project
from ..errors import InputError, UnknownName
from .limits import Limited
from .lookup import check_model_name, find_model
from .protocol import Model
from .rates import RateTable

if TYPE_CHECKING:
    # Only for models at an endpoint: a run on a builtin model need not load them.
    from .endpoint import EndpointModel
    from .retry import Retry, RetryBudget
    from .transport.protocol import Transport
    from .upstream import Upstream

Stage = Literal["run", "meta"]
"""What a model is asked for. A meta-model's calls share no static part, and go by the official client."""


class Directory:
    """The models of one project; each is made once. ``given`` are models (or official SDK clients) by name.

    ``patient``: a procedure asks, which would rather wait for a failing provider than go without an answer.
    ``lean``: a server asks, for which the CPU time of a call counts, and whose callers wait: for a place, too.

    A client stands under its endpoint's name (``openai``) and is used for all of the endpoint's models, or under a
    model's full name and is used for that one. Raises :class:`InputError` for what is neither a model nor a client.
    """

    def __init__(self, project: Project, given: Mapping[str, object] | None = None, *, patient: bool = False, lean: bool = False) -> None:
        self._project = project
        self._patient, self._lean = patient, lean
        self._given = _checked(given)
        self._models: dict[tuple[str, Stage], Model] = {}
        self._transports: dict[tuple[str, str, int], Transport] = {}
        self._budgets: dict[str, RetryBudget] = {}
        self._bare: dict[str, EndpointModel] = {}
        self.rates = RateTable(project.cache / "rates.json", project.config.prices)

    def model(self, name: str, stage: Stage = "run") -> Model:
        """The model called ``name``. Raises :class:`UnknownName`, and :class:`AuthenticationFailed` for a missing key."""
        model = self._models.get((name, stage))
        if model is None:
            model = self._models[name, stage] = self._made(name, stage)
        return model

    def check(self, name: str) -> str:
        """Itself. Raises :class:`UnknownName` when no such model can be called; needs no key."""
        if name in self._given or self.endpoint(name) is not None:
            return name
        return check_model_name(name, self.names())

    def endpoint(self, name: str) -> Endpoint | None:
        """The endpoint that a model's name begins with; ``None`` when that is none of the project's."""
        head, slash, rest = name.partition("/")
        found = self._project.config.endpoints.get(head) or ENDPOINTS.get(head) or self._of_client(name)
        if found is None:
            return None
        if not slash or not rest:
            raise UnknownName(f"{name!r} names an endpoint and no model", hint=f"write {head}/<model>")
        return found

    def _client(self, name: str) -> object | None:
        """The SDK client to call the model called ``name`` with."""
        given = self._given.get(name)
        return given if given is not None and not hasattr(given, "reply") else self._given.get(name.partition("/")[0])

    def _of_client(self, name: str) -> Endpoint | None:
        """The endpoint that an SDK client under a name of its own is."""
        client = self._client(name)
        if client is None:
            return None
        from .served import address_of, protocol_of

        protocol = protocol_of(client)
        return Endpoint(protocol=protocol, base_url=address_of(client)) if protocol else None

    def names(self) -> list[str]:
        """Names of given models and of endpoints, for did-you-mean."""
        return sorted({*self._given, *(f"{name}/…" for name in {*ENDPOINTS, *self._project.config.endpoints})})

    def _made(self, name: str, stage: Stage) -> Model:
        limit = self._project.config.limit(name)
        given = self._given.get(name)
        if hasattr(given, "reply"):
            return given if isinstance(given, Limited) else Limited(cast("Model", given), limit)
        endpoint = self.endpoint(name)
        if endpoint is None:
            return Limited(find_model(name, self.names()), limit)
        return self._at_endpoint(name, endpoint, stage)

    def _at_endpoint(self, name: str, endpoint: Endpoint, stage: Stage) -> Model:
        from .endpoint import EndpointModel
        from .retry import Retried, RetryBudget
        from .served import address_of, is_foreign, served_facts
        from .wire import client_codec

        limit = self._project.config.limit(name)
        head, _, model = name.partition("/")
        client = self._client(name)
        transport, key = self._transport(head, endpoint, stage, client)
        made = self._bare[name] = EndpointModel(
            name,
            codec=client_codec(endpoint.protocol, endpoint.api),
            transport=transport,
            facts=served_facts(name, endpoint, client),
            rates=self.rates.find(name),
            key=key,
            foreign=is_foreign(endpoint, client),
            once=stage == "meta",
            timeout=limit.timeout,
            limits_key=f"{endpoint.url() if client is None else address_of(client)} {model}",
        )
        budget = self._budgets.setdefault(head, RetryBudget())
        return Retried(Limited(made, limit), self._policy(limit), budget=budget)

    def fitted(self, name: str, request: Request) -> Request:
        """``request`` for the model called ``name``, without the parameters that this one does not take. Raises as :meth:`model`."""
        self.model(name)
        made = self._bare.get(name)
        return request if made is None else made.fitted(request)

    def upstream(self, name: str) -> Upstream | None:
        """The calls of the model called ``name`` as bytes; ``None`` for a model that has no bytes (builtin, given in Python).

        Raises as :meth:`model`.
        """
        self.model(name)
        made = self._bare.get(name)
        if made is None:
            return None
        from .upstream import Upstream

        limit = self._project.config.limit(name)
        return Upstream(made, limit, self._policy(limit), self._budgets[name.partition("/")[0]])

    def _policy(self, limit: Limit) -> Retry:
        from .retry import Retry

        return Retry(deadline=limit.deadline or 2 * limit.timeout, patient=self._patient, queued=self._lean)

    def _transport(self, head: str, endpoint: Endpoint, stage: Stage, client: object | None) -> tuple[Transport, str]:
        """What carries the endpoint's calls, and the key that goes with them (empty when an SDK client has its own)."""
        way = "client" if client is not None else self._way(endpoint, stage)
        folder = self._project.file.parent if self._project.file else self._project.root
        key = ""
        if way != "client" and endpoint.api_key_env:
            from .keys import find_key, need_key

            find = find_key if endpoint.is_foreign else partial(need_key, provider=head)
            key = find(endpoint.api_key_env, folder)
        kept = self._transports.get((head, way, id(client)))
        if kept is None:
            kept = self._transports[head, way, id(client)] = self._carrier(head, endpoint, way, client, key)
        return kept, key

    @staticmethod
    def _way(endpoint: Endpoint, stage: Stage) -> str:
        if endpoint.transport != "auto":
            return endpoint.transport
        return "sdk" if stage == "meta" else "direct"

    def _carrier(self, head: str, endpoint: Endpoint, way: str, client: object, key: str) -> Transport:
        if way == "direct":
            return self._direct(head, endpoint)
        url = "" if way == "client" else endpoint.url()
        if endpoint.protocol == "openai":
            from .transport.sdk_openai import SdkOpenAI

            return SdkOpenAI(client, url=url, key=key or None, provider=head, key_variable=endpoint.api_key_env)
        from .transport.sdk_anthropic import SdkAnthropic

        return SdkAnthropic(client, url=url, key=key or None, provider=head, key_variable=endpoint.api_key_env)

    def _direct(self, head: str, endpoint: Endpoint) -> Transport:
        from .transport.address import proxy_for

        if self._lean and proxy_for(endpoint.url()) is None:
            from .transport.lean import Lean

            return Lean(endpoint.url(), endpoint.protocol, provider=head)
        from .transport.direct import Direct

        return Direct(endpoint.url(), endpoint.protocol, provider=head)

    def warms(self, name: str, request: Request) -> bool:
        """Whether one call should go before many, to write the provider's prompt cache that the others read."""
        made = self._bare.get(name)
        return made is not None and made.warms(request)


def _checked(given: Mapping[str, object] | None) -> dict[str, object]:
    if not given:
        return {}
    if not isinstance(given, Mapping):
        raise InputError(
            f"models are given by name, not as {type(given).__name__}",
            hint='models={"openai": client} for all models of an endpoint, {"<endpoint>/<model>": model} for one',
        )
    from .served import protocol_of

    for name, one in given.items():
        if not hasattr(one, "reply") and protocol_of(one) is None:
            raise InputError(
                f"what is given as {name!r} ({type(one).__name__}) is no model, and no client of the package 'openai' or 'anthropic'",
                hint="hand in an object like openai.AsyncOpenAI(), or one with the methods of promptsmith.models.Model",
            )
    return dict(given)
