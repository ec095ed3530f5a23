"""One input through the runtime: resolve a prompt, render the input, call the model, check the answer, repair or escalate."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Self, Unpack

import msgspec

from .. import canonical
from ..chat import Reply, Request, Turn, Usage, total_cost
from ..config import Project, find_project
from ..contract import Validator, Verdict, shorten, validator
from ..errors import ContractError, InputError, ModelError, NotCompiled, PromptsmithError, UnknownName, did_you_mean
from ..models import Model
from ..models.directory import Directory
from ..models.waiting import Late, closing, pieces, within
from ..models.wrappers import Cached, Fallback, Journaled, Later, Metered, kept_reply, ledger_row, unusable
from ..prompt import Prompt, bind
from ..registry.canaries import serving
from ..registry.canary_stores import open_canaries
from ..registry.resolve import Resolved, Resolver
from ..render import Renderer
from ..store import Store
from ..store.folder import open_store
from .values import POLICIES, Compiler, Event, Given, Hook, Policy, Result, RunOptions, Source, StreamChunk, turned_into

if TYPE_CHECKING:
    # Only types here: what reads task files would cost each start 15 ms, journals 1 ms.
    from ..store import Journal
    from ..task import Task

_HANDLES = 1024
_OPTIONS = frozenset(RunOptions.__annotations__)


class Handle:
    """One prompt made ready to serve with one model: what its calls share, computed once."""

    __slots__ = ("models", "prompt", "renderer", "ungated", "validate")

    def __init__(self, prompt: Prompt, model: str | None, parameters: Mapping[str, object] | None) -> None:
        self.prompt = prompt
        self.renderer = Renderer(prompt, model=model, parameters=parameters)  # type: ignore[arg-type]  # checked when keyed
        self.validate: Validator = validator(prompt.contract)
        # A limit where the prompt has none changes no answer that ends by itself; one that does not says so.
        unlimited = {"max_tokens"} - set(prompt.parameters)
        self.ungated = (model or prompt.model) != prompt.model or not set(parameters or ()) <= unlimited
        self.models: dict[str, Model] = {}


class Call:
    """One call on its way: what was decided before any model is asked."""

    __slots__ = (
        "error",
        "found",
        "given",
        "handle",
        "journal",
        "key",
        "options",
        "passed",
        "policy",
        "replies",
        "request",
        "resolved",
        "result",
        "skipped",
        "started",
        "uses_cache",
        "waited",
    )

    def __init__(
        self, resolved: Resolved, handle: Handle, request: Request, given: Given, options: RunOptions, policy: Policy, uses_cache: bool
    ) -> None:
        self.started = time.perf_counter()
        self.resolved, self.handle, self.request, self.given, self.options = resolved, handle, request, given, options
        self.policy, self.uses_cache = policy, uses_cache
        self.key = request.key() if options.get("appended") else handle.renderer.key(request)
        self.result: Result | None = None
        self.error: PromptsmithError | None = None
        """What the call comes to, or fails with, when that is known without a model."""
        self.journal: Journal | None = None
        self.found: dict[int, Source] = {}
        """Replies (by identity) that were not paid for by this call, and where they were found."""
        self.passed: list[Reply] = []
        """Replies that were no answer, so that a fallback was asked."""
        self.replies: list[Reply] = []
        """All others that it got, whatever they came to."""
        self.waited = 0.0
        """Seconds of waiting for models: for a place, for an equal call under way, for their answers."""
        self.skipped: list[str] = []
        """The models that gave no answer, for whatever reason."""

    def key_of(self, request: Request) -> str:
        return self.key if request is self.request else request.key()

    def paid(self) -> list[Reply]:
        """The replies that this call paid for."""
        return [one for one in (*self.passed, *self.replies) if id(one) not in self.found]

    @property
    def models(self) -> tuple[str, ...]:
        """The model that is asked, and its fallbacks."""
        return self.request.model, *self.options.get("fallback", self.handle.prompt.serve.fallback)

    @property
    def answering(self) -> str:
        """The model that answers, as far as is known now."""
        if self.result is not None:
            return self.result.model
        names = self.models
        return names[min(len(self.skipped), len(names) - 1)]

    def is_ungated(self, model: str) -> bool:
        """Whether an answer of ``model`` is another than the one that the gate has seen."""
        return self.handle.ungated or model != self.handle.prompt.model or bool(self.options.get("appended"))

    @property
    def settled(self) -> bool:
        return self.result is not None or self.error is not None

    def outcome(self) -> Result:
        """The result of a settled call. Raises what it failed with."""
        if self.error is not None:
            raise self.error
        assert self.result is not None
        return self.result


class HookWarning(UserWarning):
    """A hook failed; the call that it was told of did not."""


class Core:
    """Everything of :class:`promptsmith.runtime.AsyncRuntime` that is about one input."""

    def __init__(
        self,
        project: Project | str | PathLike[str] | None = None,
        *,
        store: Store | None = None,
        compiler: Compiler | None = None,
        models: Mapping[str, object] | None = None,
        cache: bool | None = None,
        on_contract_break: Policy | None = None,
        hooks: Sequence[Hook] = (),
        lean: bool = False,
    ) -> None:
        self.project = project if isinstance(project, Project) else find_project(project)
        self.store: Store = store or open_store(self.project)
        self.resolver = Resolver(self.project, self.store)
        self.canaries = open_canaries(self.project, self.resolver.registry)
        self._compiler = compiler
        self.directory = Directory(self.project, models, lean=lean)
        self._cache = cache
        self._break_policy = _checked_policy(on_contract_break)
        self._hooks = tuple(hooks)
        self._handles: OrderedDict[tuple[object, ...], Handle] = OrderedDict()

    # --- calls ----------------------------------------------------------------------------------------

    async def run(self, task: str | Task, given: Given, **options: Unpack[RunOptions]) -> Result:
        """The answer to one input.

        ``task`` is a ref (``sentiment``, ``sentiment@candidate``, ``sentiment@<id prefix>``) or a :class:`Task`.
        ``given`` is the text, or a mapping of named inputs. Raises :class:`InputError`, :class:`NotCompiled`,
        :class:`ContractError`, :class:`ModelError` and their kin.
        """
        return await self.perform(await self._prepared(task, given, options))

    async def stream(self, task: str | Task | Resolved, given: Given, **options: Unpack[RunOptions]) -> AsyncGenerator[StreamChunk, None]:
        """The answer in pieces; the last chunk carries the :class:`Result`.

        The contract is checked at the end. What was streamed can't be taken back, so ``repair`` and ``escalate``
        raise :class:`ContractError` like ``error`` does; ``pass`` lets it pass.
        """
        async with closing(self.streamed(await self._prepared(task, given, options))) as chunks:
            async for chunk in chunks:
                yield chunk

    async def streamed(self, call: Call) -> AsyncGenerator[StreamChunk, None]:
        """What a call comes to, in pieces; as :meth:`stream`."""
        try:
            if call.settled:
                result = call.outcome()
                yield StreamChunk(result.text)
            else:
                final: Reply | None = None
                async with closing(pieces(self._model(call).stream(call.request), call.options.get("timeout"))) as stream:
                    asked = time.perf_counter()
                    async for chunk in stream:
                        call.waited += time.perf_counter() - asked
                        final = chunk.reply or final
                        if chunk.text:
                            yield StreamChunk(chunk.text)
                        asked = time.perf_counter()
                    call.waited += time.perf_counter() - asked
                result = self._streamed(call, final)
        except Late:
            raise await self._failed(call, _late(call.options)) from None
        except PromptsmithError as error:
            await self._tell(call, None, error)
            raise
        await self._tell(call, result)
        yield StreamChunk("", result)

    def check(self, options: RunOptions) -> None:
        """Nothing. Raises :class:`InputError` for an option that does not exist or that no call can have."""
        for name in options:
            if name not in _OPTIONS:
                near = did_you_mean(name, _OPTIONS)
                raise InputError(f"run has no option {name!r}", hint=near or f"it has {', '.join(sorted(_OPTIONS))}")
        _checked_policy(options.get("on_contract_break"))
        timeout = options.get("timeout")
        if timeout is not None and not (isinstance(timeout, int | float) and timeout > 0):
            raise InputError(f"timeout is {timeout!r}", hint="give seconds, more than 0, or None")
        key = options.get("canary_key")
        if key is not None and not isinstance(key, str):
            raise InputError(f"canary_key is {key!r}", hint="give a text that names the caller, such as a user's id")

    def prepare(self, task: str | Task | Resolved, given: Given, options: RunOptions) -> Call:
        """Everything of a call that needs no model; it is ``settled`` when the reply cache knows the answer."""
        self.check(options)
        resolved = task if isinstance(task, Resolved) else self.resolve(task, options.get("canary_key"))
        handle = self.handle(resolved.prompt, options)
        request = handle.renderer.request(
            given, history=options.get("history", ()), sample=options.get("sample", 0), appended=options.get("appended", "")
        )
        policy = self.policy(resolved.prompt, options)
        call = Call(resolved, handle, request, given, options, policy, self.uses_cache(resolved.prompt, options))
        if policy == "escalate":
            self._stronger(call)  # before anything is paid for
        if call.uses_cache:
            self._look_up(call)
        return call

    def takes(self, resolved: Resolved, given: Given, options: RunOptions) -> bool:
        """Whether a call can be made at all: its inputs are the prompt's, its parameters the model's."""
        try:
            request = self.prepare(resolved, given, {**options, "cache": False}).request
            return self.directory.fitted(request.model, request) is request
        except PromptsmithError:
            return False

    async def perform(self, call: Call) -> Result:
        """What the call comes to: known already, or asked of the model and checked, within the call's timeout."""
        try:
            result = call.outcome() if call.settled else await within(call.options.get("timeout"), self._answer(call))
        except Late:
            raise await self._failed(call, _late(call.options)) from None
        except PromptsmithError as error:
            await self._tell(call, None, error)
            raise
        if self._hooks:
            await self._tell(call, result)
        return result

    # --- resolving ------------------------------------------------------------------------------------

    def resolve(self, task: str | Task, canary_key: str | None = None) -> Resolved:
        """The prompt that a call would be served with, and why that one; with a ``canary_key`` the one for that caller.

        Raises :class:`NotCompiled` for a task without a prompt: its raw description is never served instead.
        """
        if isinstance(task, str):
            return self.resolver.resolve(task) if canary_key is None else serving(self.resolver, self.canaries, task, canary_key)
        if not hasattr(task, "contract"):
            raise InputError(f"a task is named by a text such as 'sentiment@production', or given as a Task, not as {type(task).__name__}")
        if canary_key is not None:
            raise InputError("a canary_key goes with a task's name", hint="canaries run beside an alias, which a Task has not")
        prompt = self._compiler.find(task) if self._compiler else None
        if prompt is None:
            raise NotCompiled(
                f"task {task.name} has not been compiled", hint="compile it first with compile_task, or pass compile_missing=True to run"
            )
        return Resolved(prompt=prompt, chosen=f"{task.name} (compiled from exactly this task)", origin="cache")

    async def _prepared(self, task: str | Task | Resolved, given: Given, options: RunOptions) -> Call:
        if not options.get("compile_missing") or isinstance(task, Resolved):
            return self.prepare(task, given, options)
        return self.prepare(await self.ensure_compiled(task), given, options)

    async def ensure_compiled(self, task: str | Task) -> str | Task:
        """What to ask for so that a prompt answers: ``task`` itself, or its latest prompt, compiled now if need be."""
        try:
            self.resolve(task)
        except NotCompiled:
            await self._compile(task)
            if isinstance(task, str) and "@" not in task:
                return f"{task}@latest"
        return task

    async def _compile(self, task: str | Task) -> None:
        if self._compiler is None:
            raise InputError("this runtime has no compiler, so it can't compile a missing task")
        if isinstance(task, str):
            from ..task import load_task

            name = task.partition("@")[0]
            task = load_task(self.project.task_file(name), name=name)
        await self._compiler.compile(task)

    def handle(self, prompt: Prompt, options: RunOptions) -> Handle:
        """``prompt`` made ready to serve with the model and the parameters of ``options``; made once."""
        model, parameters = options.get("model"), options.get("parameters")
        # By digest: 1, 1.0 and True are one key of a dict, and are not one parameter.
        key = (prompt.id, prompt.task, prompt.serve, model, canonical.digest(canonical.parameters(parameters)) if parameters else None)
        handle = self._handles.get(key)
        if handle is None:
            handle = self._handles[key] = Handle(prompt, model, parameters)
            if len(self._handles) > _HANDLES:
                self._handles.popitem(last=False)
        return handle

    # --- models ---------------------------------------------------------------------------------------

    def model(self, name: str) -> Model:
        """The model called ``name``, within its limits; made once."""
        return self.directory.model(name)

    def warms(self, call: Call) -> bool:
        """Whether one call should go before many with the same prompt."""
        try:
            self.model(call.request.model)
        except PromptsmithError:
            return False  # each call will say so itself
        return self.directory.warms(call.request.model, call.request)

    def _model(self, call: Call) -> Model:
        """The call's model and its fallbacks, with all that stands around them."""
        names = call.models
        if len(names) == 1:
            return self._one(call, names[0])
        # A name that is wrong is told at once, and not on the day when it is needed.
        first, *others = [(self.directory.check(name), partial(self._one, call, name)) for name in names]
        chain = [Later(*first), *(Later(name, make, partial(self.directory.fitted, name)) for name, make in others)]
        return Fallback(chain, call.passed.append, call.skipped.append)

    def _one(self, call: Call, name: str) -> Model:
        metered = call.handle.models.get(name)
        if metered is None:
            prompt = call.handle.prompt
            metered = Metered(self.model(name), self.store, task=prompt.task, prompt=prompt.id, stage="run")
            call.handle.models[name] = metered

        def found(reply: Reply, source: Source) -> None:
            self._not_paid(call, reply, source)

        # Around each model and not around the chain: what a fallback said must not be kept as the first model's words.
        model = metered if call.journal is None else Journaled(metered, call.journal, call.key_of, found)
        return Cached(model, self.store, call.key_of, found, missed=call.key) if call.uses_cache else model

    def _not_paid(self, call: Call, reply: Reply, source: Source) -> None:
        """Takes note of a reply that was found; the ledger has a row for it as for one that was paid for."""
        call.found[id(reply)] = source
        prompt, latency = call.handle.prompt, time.perf_counter() - call.started
        row = ledger_row(reply, task=prompt.task, prompt=prompt.id, stage="run", model=reply.model, latency=latency, source=source)
        self.store.ledger.append(row)

    def uses_cache(self, prompt: Prompt, options: RunOptions) -> bool:
        """Whether replies may come from and go to the reply cache."""
        wanted = options.get("cache", self._cache)
        return prompt.serve.cache if wanted is None else wanted

    # --- answers --------------------------------------------------------------------------------------

    async def _answer(self, call: Call) -> Result:
        await _complete(call, self._model(call), call.request)
        reply = call.replies[-1]
        verdict = _verdict(call, reply)
        if verdict.reasons and reply.stop == "end" and call.policy in ("repair", "escalate"):
            await self._second_try(call, reply, verdict)
        return self._judged(call, call.replies)

    async def _second_try(self, call: Call, reply: Reply, verdict: Verdict) -> None:
        if call.policy == "escalate":
            name = self._stronger(call)
            await _complete(call, self._one(call, name), self.directory.fitted(name, msgspec.structs.replace(call.request, model=name)))
        else:
            await _complete(call, self._model(call), repaired(call.request, reply.text, verdict.reasons))

    def _stronger(self, call: Call) -> str:
        name = call.options.get("escalate") or call.handle.prompt.serve.escalate or self.project.config.models.meta
        if not name:
            raise UnknownName(
                "on_contract_break is 'escalate', but no stronger model is named",
                hint="set escalate in the call, serve.escalate in the task, or models.meta in the project's settings",
            )
        return self.directory.check(name)

    def _streamed(self, call: Call, final: Reply | None) -> Result:
        if final is None:
            raise ModelError(f"{call.request.model} ended its stream without a reply")
        call.replies.append(final)
        return self._judged(call, [_usable(call, final)])

    def _judged(self, call: Call, replies: Sequence[Reply]) -> Result:
        """The result of the last reply. Raises :class:`ContractError` when it breaks the contract and may not pass."""
        replies = [*call.passed, *replies]
        reply = replies[-1]
        paid = [one for one in replies if id(one) not in call.found] if call.found else replies
        counted = paid or replies
        verdict = _verdict(call, reply)
        prompt = call.handle.prompt
        if prompt.serve.capture:
            self._capture(call, reply, verdict)
        if verdict.reasons and reply.stop == "end" and call.policy != "pass":
            raise ContractError(
                f"the answer of {reply.model} to {prompt.task} breaks the contract: {'; '.join(verdict.reasons)}",
                reasons=verdict.reasons,
                text=reply.text,
                hint=f"it answered {shorten(reply.text, 200)}",
            )
        value, into = verdict.value, call.options.get("into")
        return Result(
            text=reply.text,
            value=value if into is None or verdict.reasons else turned_into(into, value),
            task=prompt.task,
            prompt=prompt.id,
            chosen=call.resolved.chosen,
            origin=call.resolved.origin,
            model=reply.model,
            source="model" if paid else call.found[id(reply)],
            stop=reply.stop,
            usage=sum((one.usage for one in counted), Usage()) if len(counted) > 1 else counted[0].usage,
            cost=total_cost(one.cost for one in paid),
            latency=time.perf_counter() - call.started,
            waited=call.waited,
            age=call.resolved.age(),
            calls=len(paid),
            attempts=sum([one.attempts for one in paid]),
            request_id=reply.request_id if paid and reply is paid[-1] else "",
            ungated=call.is_ungated(reply.model),
            reasons=verdict.reasons,
            notes=verdict.notes,
        )

    def _capture(self, call: Call, reply: Reply, verdict: Verdict) -> None:
        """Keeps the call for review when the draw falls on it.

        The draw is a new one for each call: one that depended on the input would keep all calls with a frequent input or
        none. Left out are calls with earlier turns, which no example can hold, and replies from a journal: they were
        drawn for when they were paid for.
        """
        from random import SystemRandom

        prompt = call.handle.prompt
        if SystemRandom().random() >= prompt.serve.capture or call.options.get("history") or call.found.get(id(reply)) == "journal":
            return
        from ..redact import redact
        from ..store.captures import Capture

        inputs = {name: redact(text) for name, text in bind(prompt.inputs, call.given).items()}
        # A model may answer with half of a surrogate pair, which no file can hold.
        output, *reasons = (redact(text).encode("utf-8", "replace").decode() for text in (reply.text, *verdict.reasons))
        row = Capture(
            id=canonical.case_id(inputs),
            time=time.time(),
            prompt=prompt.id,
            model=reply.model,
            inputs=inputs,
            output=output,
            ok=verdict.ok,
            reasons=tuple(reasons),
        )
        self.store.captures.add(prompt.task, row)

    def _look_up(self, call: Call) -> None:
        """Settles ``call`` when the reply cache has its reply, unless its policy wants a second try for that one."""
        reply = kept_reply(self.store, call.key)
        if reply is None or (call.policy in ("repair", "escalate") and call.handle.validate(reply.text).reasons):
            return
        self._not_paid(call, reply, "cache")
        try:
            call.result = self._judged(call, [reply])
        except PromptsmithError as error:
            call.error = error

    def policy(self, prompt: Prompt, options: RunOptions) -> Policy:
        """What is done when an answer breaks the contract."""
        named = options.get("on_contract_break") or self._break_policy or prompt.serve.on_contract_break or "error"
        return _checked_policy(named) or "error"

    # --- hooks and end --------------------------------------------------------------------------------

    async def _tell(self, call: Call, result: Result | None, error: PromptsmithError | None = None) -> None:
        # In worker threads, so that a hook may block or call the sync face.
        for hook in self._hooks:
            await asyncio.to_thread(notify, hook, self.event(call, result, error))

    def event(self, call: Call, result: Result | None, error: PromptsmithError | None = None) -> Event:
        """What hooks are told about a call that has ended."""
        latency = time.perf_counter() - call.started
        prompt = call.handle.prompt
        return Event(
            task=prompt.task, prompt=prompt.id, key=call.key, started=time.time() - latency, latency=latency, result=result, error=error
        )

    @property
    def hooks(self) -> tuple[Hook, ...]:
        return self._hooks

    async def _failed(self, call: Call, error: PromptsmithError) -> PromptsmithError:
        if self._hooks:
            await self._tell(call, None, error)
        return error

    def close(self) -> None:
        """Writes what is waiting to be written. Needed by nobody: it also happens when the process ends."""
        self.store.close()
        self.canaries.end()
        self.resolver.registry.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        self.close()


def notify(hook: Hook, event: Event) -> None:
    """Tells a hook. When that fails it is warned of: an answer that was paid for is not lost over it."""
    try:
        hook(event)
    except Exception as error:  # a hook is the caller's code
        warnings.warn(f"the hook {hook!r} failed: {type(error).__name__}: {error}", HookWarning, stacklevel=2)


def repaired(request: Request, text: str, reasons: Sequence[str]) -> Request:
    """The request again, after the answer ``text`` and with what is wrong with it."""
    wrong = f"That answer does not have the required form: {'; '.join(reasons)}. Give the answer again, in the required form only."
    turns = request.turns
    if text.strip():
        return msgspec.structs.replace(request, turns=(*turns, Turn("assistant", text), Turn("user", wrong)))
    # Providers refuse an empty turn of the assistant, and some two turns of the user in a row.
    return msgspec.structs.replace(request, turns=(*turns[:-1], Turn("user", f"{turns[-1].text}\n\n{wrong}")))


async def answered(model: Model, request: Request) -> list[Reply]:
    """The replies it took: after a stop at the length limit, one more with double the limit. The last may be unusable."""
    replies = [await model.reply(request)]
    limit = request.parameters.get("max_tokens")
    if replies[0].stop == "length" and isinstance(limit, int):
        longer = msgspec.structs.replace(request, parameters={**request.parameters, "max_tokens": 2 * limit})
        replies.append(await model.reply(longer))
    return replies


async def _complete(call: Call, model: Model, request: Request) -> None:
    """Adds the replies it took to those of ``call``, the last one usable."""
    began = time.perf_counter()
    call.replies += [await model.reply(request)] if call.options.get("unfinished") else await answered(model, request)
    call.waited += time.perf_counter() - began
    _usable(call, call.replies[-1])


def _usable(call: Call, reply: Reply) -> Reply:
    if reply.stop == "end" or (call.options.get("unfinished") and reply.stop != "aborted"):
        return reply
    raise unusable(reply)


def _verdict(call: Call, reply: Reply) -> Verdict:
    """Whether the reply satisfies the contract; one that stopped early does not, and is nothing to be judged further."""
    if reply.stop == "end":
        return call.handle.validate(reply.text)
    return Verdict(None, (f"it stopped early: {reply.stop}",))


def _checked_policy(policy: str | None) -> Policy | None:
    if policy is None:
        return None
    for known in POLICIES:
        if policy == known:
            return known
    raise InputError(f"on_contract_break can't be {policy!r}; it is one of {', '.join(POLICIES)}", hint=did_you_mean(policy, POLICIES))


def _late(options: RunOptions) -> ModelError:
    return ModelError(f"no answer within the call's timeout of {options.get('timeout'):g} seconds", hint="give the call a longer timeout")
