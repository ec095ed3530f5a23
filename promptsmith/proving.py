"""Which eval proves a prompt: what it is compared with, and the report that shows it, found or made now."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from .compiler.build import ProjectCompiler
from .config import Project
from .errors import InputError, LockError
from .evals.evaluate import Against, Contender, EvalOptions, Evaluator
from .evals.report import Report
from .evals.rules import gate_rules
from .evals.runner import OnProgress
from .evals.vocabulary import check_task
from .prompt import Prompt
from .receipt import Receipt
from .registry.entry import Entry
from .registry.protocol import Registry
from .registry.resolve import Resolved
from .store import Store
from .task import Task


class Prover:
    """Runs the evals of one project against what its registry has in production."""

    def __init__(self, project: Project, store: Store, registry: Registry, models: Mapping[str, object] | None = None) -> None:
        self._registry = registry
        self._compiler = ProjectCompiler(project, store, models)
        self._evaluator = Evaluator(project, store, models)
        self.reports = self._evaluator.reports

    async def evaluate(
        self, task: Task, candidate: Resolved, options: EvalOptions | None = None, on_progress: OnProgress | None = None
    ) -> Report:
        """A report on ``candidate``, made now. Raises what :meth:`Evaluator.evaluate` raises."""
        chosen = options or EvalOptions()
        check_task(task)
        contender = Contender(candidate.prompt, candidate.chosen)
        return await self._evaluator.evaluate(task, contender, self.against(task, candidate.prompt, chosen), chosen, on_progress)

    def found(self, task: Task, candidate: Resolved, options: EvalOptions | None = None, *, since: float | None = None) -> Report | None:
        """The newest kept report of exactly this eval, if it was not stopped; ``None`` when it is to be run.

        One from before other prompts were scored on this holdout counts too few looks, and is to be made again. With
        ``since`` (Unix time) the newest made from then on, whatever it says.
        """
        chosen = options or EvalOptions()
        contender, against = Contender(candidate.prompt, candidate.chosen), self.against(check_task(task), candidate.prompt, chosen)
        identity = self._evaluator.identity(task, contender, against, chosen)
        looks = self._evaluator.looks(task, contender, against, chosen)
        for head in self.reports.heads(task.name):
            usable = not head.stopped and head.looks >= looks if since is None else self.reports.made(head.id) >= since
            if head.identity == identity and usable:
                return self.reports.load(head.id)
        return None

    def against(self, task: Task, candidate: Prompt, options: EvalOptions) -> Against:
        """What a prompt is compared with.

        The prompt under the gate's alias; its own receipt when drift is looked for; else the majority answer, with the
        ``-O0`` prompt beside it.
        """
        entry = self._entry(task.name)
        receipts = tuple(entry.receipts.values()) if entry else ()
        if options.part == "dev":
            return Against()
        alias = gate_rules(task.gate).versus
        incumbent = entry.prompt(entry.aliases[alias]) if entry and alias in entry.aliases else None
        if incumbent is not None and incumbent.id != candidate.id:
            contender = Contender(msgspec.structs.replace(incumbent, task=task.name), f"{task.name}@{alias}")
            return Against(incumbent=contender, receipts=receipts)
        own = entry.receipts.get(candidate.id) if entry and options.fresh else None
        if own is not None and own.rows:
            return Against(receipt=own, receipts=receipts)
        if options.fresh and incumbent is not None:
            return Against(receipts=receipts, doubts=(_no_drift(task.name, candidate.id, own),))
        return Against(reference=self._reference(task, candidate), receipts=receipts)

    def _entry(self, task: str) -> Entry | None:
        try:
            return self._registry.entry(task)
        except LockError as error:
            raise InputError(f"what is in production can't be read: {error.message}", hint=error.hint) from None

    def _reference(self, task: Task, candidate: Prompt) -> Contender | None:
        if candidate.provenance.level == 0 and task.prompt is None:
            return None  # it is one itself
        template = self._compiler.template(task)
        return None if template.id == candidate.id else Contender(template, "the -O0 prompt of the same task")


def _no_drift(task: str, prompt_id: str, own: Receipt | None) -> str:
    """Why nobody can tell whether a prompt in production has drifted."""
    lacks = f"the receipt of prompt {prompt_id[:12]} keeps no rows" if own else f"prompt {prompt_id[:12]} was promoted without a receipt"
    return f"{lacks}, so drift can't be told: promptsmith promote {task}@production makes one"
