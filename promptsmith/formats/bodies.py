"""A ready request body of a provider's API: the prompt, and a word where the input goes."""

from __future__ import annotations

from typing import Any

import msgspec

from ..catalog.models import facts
from ..models.caching import cacheable
from ..models.wire import CachePlan, codec
from ..prompt import Prompt
from ..render import Renderer


def request_body(prompt: Prompt, protocol: str) -> dict[str, Any]:
    """The body of one call by ``protocol`` (``openai`` or ``anthropic``), with the provider's cache marks."""
    given: Any = {variable.name: variable.name for variable in prompt.inputs} or "INPUT"
    request = Renderer(prompt).request(given)
    known = facts(prompt.model if prompt.model.startswith(f"{protocol}/") else f"{protocol}/")
    ttl = known.ttls[0] if known.ttls else ""
    plan = CachePlan(mark=bool(ttl) and cacheable(prompt.system, known), ttl=ttl)
    aimed = msgspec.structs.replace(request, model=f"{protocol}/{prompt.model.partition('/')[2]}")
    return codec(protocol).body(aimed, stream=False, facts=known, cache=plan)
