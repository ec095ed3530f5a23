"""Which prompt a caller gets: the one under the alias, or a candidate that shares its calls or runs beside it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator

import msgspec

from ..canary import Watch
from ..errors import ContractError, PromptsmithError
from ..registry.canaries import Canary, CanaryWarning
from ..registry.resolve import PRODUCTION, Resolved
from ..runtime.core import Core
from ..runtime.values import Given, RunOptions
from .prometheus import Family
from .visit import Visit

_SHADOWS = 32
"""Shadow calls at a time; more are left out, since nobody waits for them."""


SHARE = "promptsmith_canary_share"
_NOW = frozenset({"lock", "registry"})
"""Origins that say what an alias names now; any other prompt may be of before."""


class Arms:
    """One worker's."""

    def __init__(self, core: Core, watch: Watch) -> None:
        self._core, self._watch = core, watch
        self._beside: set[asyncio.Task[None]] = set()
        self._told: set[str] = set()
        """Canaries whose candidate was missing."""

    def resolve(self, ref: str, visit: Visit, sticky: str | None, *, drawn: bool = True) -> Resolved:
        """The prompt for this caller; notes in ``visit`` alias, arm and canary. Unless it is ``drawn`` for, no canary's candidate."""
        task, _, selector = ref.partition("@")
        resolved = self._core.resolver.resolve(ref)
        visit.alias = selector or PRODUCTION
        if len(visit.alias) >= 4 and resolved.prompt.id.startswith(visit.alias):
            visit.alias = resolved.prompt.id[:12]
            return resolved
        if not drawn:
            return resolved
        canary = self._watch.canary(task, visit.alias, resolved.prompt.id if resolved.origin in _NOW else None)
        if canary is None:
            return resolved
        arm = self._watch.arm(canary, sticky)
        if arm == "candidate":
            try:
                candidate = self._core.resolver.resolve(f"{task}@{canary.candidate}")
            except PromptsmithError as error:
                self._tell(canary, error)
                return resolved  # and its call counts for nobody
            resolved = Resolved(prompt=candidate.prompt, chosen=f"{task}@{visit.alias} (its canary)", origin=candidate.origin)
        visit.canary = canary
        if canary.mode != "shadow":
            visit.arm = arm
        return resolved

    def _tell(self, canary: Canary, error: PromptsmithError) -> None:
        if canary.id not in self._told:
            self._told.add(canary.id)
            what = f"the candidate of canary {canary.id} is not to be had here, and the incumbent answers its callers: {error.message}"
            warnings.warn(what, CanaryWarning, stacklevel=3)

    def shadow(self, visit: Visit, incumbent: Resolved, given: Given, options: RunOptions, sticky: str | None) -> None:
        """Asks the candidate the same beside, whose answer nobody gets.

        Told before the request is answered: what the incumbent's provider does to both is to count on both sides.
        """
        canary = visit.canary
        if canary is None or canary.mode != "shadow" or not self._core.takes(incumbent, given, options):
            return  # what a client does wrong says nothing of either side
        visit.arm = "incumbent"
        if len(self._beside) >= _SHADOWS or not self._watch.shadows(canary, sticky):
            return
        if visit.stream:
            options = {**options, "on_contract_break": "pass"}  # of a stream nothing is mended, on neither side
        task = asyncio.get_running_loop().create_task(self._asked(canary, given, options))
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _asked(self, canary: Canary, given: Given, options: RunOptions) -> None:
        adherent: bool | None = None
        failed = False
        try:
            found = self._core.resolver.resolve(f"{canary.task}@{canary.candidate}")
            serve = msgspec.structs.replace(found.prompt.serve, capture=0.0)  # nobody got the answer, so nobody labels it
            resolved = msgspec.structs.replace(found, prompt=msgspec.structs.replace(found.prompt, serve=serve))
            adherent = (await self._core.perform(self._core.prepare(resolved, given, options))).ok
        except ContractError:
            adherent = False
        except PromptsmithError:
            failed = True
        self._watch.outcome(canary, "candidate", adherent, failed)

    def shares(self) -> Iterator[Family]:
        """For Prometheus: the share of the callers that each candidate has now."""
        try:
            known = [one for one in self._watch.store.all() if one.ended is None]
        except (OSError, PromptsmithError):
            return  # whoever serves has told of it
        samples = [
            ((("task", one.task), ("alias", one.alias), ("mode", one.mode), ("candidate", one.candidate[:12])), one.share) for one in known
        ]
        yield Family(SHARE, "gauge", "Share of the callers that a candidate answers, or is asked beside for.", samples)

    async def close(self) -> None:
        """Waits for nobody: what runs beside is cut off."""
        for task in list(self._beside):
            task.cancel()
        await asyncio.gather(*self._beside, return_exceptions=True)
