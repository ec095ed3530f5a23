"""What the pages may do to an alias, through the same gate as the command line: promote, roll back, run a canary."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from ..canary import Watch
from ..errors import InputError, LockConflict, UnknownName
from ..evals.report import Reports
from ..evals.vocabulary import load_suite_task
from ..promotion import is_forced, needs_receipt, promote, proof, rollback
from ..proving import Prover
from ..receipt import Receipt
from ..registry.canaries import Canary, CanaryStore, Mode, check_room, new_canary
from ..registry.resolve import Resolved, Resolver


class Moves:
    """Each method says in a sentence what it did, and may wait for disk and database: call it in a thread.

    ``who`` is the name of the key that does it.
    """

    def __init__(self, resolver: Resolver, canaries: CanaryStore, told: Callable[[Canary], object] = lambda canary: None) -> None:
        self._resolver, self._canaries, self._told = resolver, canaries, told
        self._project, self._registry = resolver.project, resolver.registry

    def promote(self, ref: str, alias: str, *, who: str, why: str, seen: Mapping[str, str]) -> str:
        """Moves ``alias`` to the prompt ``ref`` names; ``seen`` is what the aliases named when the page was made.

        Raises :class:`GateError` without evidence, :class:`LockConflict` when somebody else was faster.
        """
        self._server_only(f"promptsmith promote {ref} --to {alias}")
        resolved = self._resolver.resolve(ref)
        self._unmoved(resolved.prompt.task, alias, seen)
        receipt = self._evidence(resolved, alias)
        moved = promote(self._registry, self._project, resolved.prompt, alias=alias, who=who, why=_here(why), receipt=receipt)
        if moved.move is None:
            return f"{moved.task}@{alias} is {resolved.prompt.id[:12]} already"
        return f"{moved.task}@{alias} is now {resolved.prompt.id[:12]}"

    def rollback(self, task: str, alias: str, *, who: str, why: str, seen: Mapping[str, str]) -> str:
        """Moves ``alias`` back to what it named before."""
        self._server_only(f"promptsmith rollback {task}@{alias}")
        self._unmoved(task, alias, seen)
        reports = Reports(self._project.cache)
        moved = rollback(self._registry, task, alias=alias, who=who, why=_here(why), find=self._resolver.find, reports=reports)
        return f"{task}@{alias} is back at {moved.after[:12]}" if moved.after else f"{task}@{alias} is removed: it had named nothing before"

    def start(self, ref: str, alias: str, *, mode: Mode, percent: float, who: str, why: str) -> str:
        """Lets the prompt ``ref`` names answer a share of the callers, or be asked beside."""
        resolved = self._resolver.resolve(ref)
        prompt = resolved.prompt
        made = new_canary(
            prompt.task,
            alias,
            candidate=prompt.id,
            incumbent=self._registry.resolve(prompt.task, alias),
            share=percent / 100,
            mode=mode,
            who=who,
            note=why,
        )
        check_room(self._canaries.active(prompt.task, alias), made)
        receipt = self._evidence(resolved, alias)
        is_forced(self._project, prompt, alias, force=False, receipt=receipt)
        self._canaries.start(msgspec.structs.replace(made, receipt=receipt.digest if receipt else None), prompt, receipt)
        return (
            f"{prompt.id[:12]} {'is asked beside' if mode == 'shadow' else 'answers'} {percent:g} % of the calls of {prompt.task}@{alias}"
        )

    def stop(self, task: str, alias: str, *, who: str, why: str) -> str:
        """Ends what :meth:`start` began."""
        canary = self._canaries.active(task, alias)
        if canary is None:
            raise UnknownName(f"no canary runs beside {task}@{alias}")
        Watch(self._canaries, self._registry, self._told).stop(canary, f"ended by {who}: {_here(why)}")
        return f"all callers of {task}@{alias} get the incumbent {canary.incumbent[:12]} again"

    def _evidence(self, resolved: Resolved, alias: str) -> Receipt | None:
        """The receipt of a kept eval of exactly this prompt. An eval is not run here: it may cost, and takes its time."""
        if not needs_receipt(self._project, alias):
            return None
        prompt = resolved.prompt
        prover = Prover(self._project, self._resolver.store, self._registry)
        task = load_suite_task(self._resolver.task_file(prompt.task), prompt.task)
        report = prover.found(task, resolved)
        if report is None:
            raise InputError(
                f"no eval of prompt {prompt.id[:12]} as things are now is kept here",
                hint=f"run promptsmith eval {prompt.task}@{prompt.id[:12]}, then come back",
            )
        return proof(report, prompt, alias)

    def _server_only(self, command: str) -> None:
        if not self._project.config.registry:
            raise InputError(
                "the registry here is promptsmith.lock, which stands in git and is never written by the service", hint=f"run {command}"
            )

    def _unmoved(self, task: str, alias: str, seen: Mapping[str, str]) -> None:
        now = self._registry.resolve(task, alias) or ""
        if seen.get(alias, "") != now:
            raise LockConflict(f"{task}@{alias} was moved since the page was made: it is {now[:12] or 'removed'} now", hint="look again")


def _here(why: str) -> str:
    """The reason of a move by a key: it has that one's name, which is no user's of the machine."""
    return f"{why} (on the service's pages)" if why else "on the service's pages"
