"""The decode loop: prompts in, tokens out, over a tiered KV cache that a daemon may steer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hotset.protos.errors import CapacityError
from hotset.protos.messages import StepStats
from hotset.protos.transport import CurveKeys
from hotset.runtime import events
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.generation import Generation, PromptKV, Request
from hotset.runtime.gpu.device import Device
from hotset.runtime.gpu.pinned import Progress
from hotset.runtime.gpu.steps import bucket
from hotset.runtime.huggingface import Forward, load_model, model_shape
from hotset.runtime.link import ControlLink
from hotset.runtime.link.control import Published
from hotset.runtime.lookahead import Lookahead
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import DecodePass
from hotset.runtime.prefill import Prefill
from hotset.runtime.sampling import Sampler, Sampling
from hotset.runtime.scheduler import Scheduler
from hotset.runtime.selectors import SELECTORS
from hotset.runtime.steering import LinkSteering, Steering
from hotset.runtime.stepping import make_steps
from hotset.runtime.steps import Hooks, Stats, Steps

_ROWS = 4
"""Rows of a decode step at least, where more than one sequence may run: with fewer, matrix products on a CPU take
other paths that round otherwise, and a sequence's tokens would depend on who runs beside it."""


@dataclass(frozen=True)
class StepReport:
    """What one decode step did; counts are pages of one lane."""

    epoch: int
    sequences: int
    accesses: int
    demand_misses: int
    prefetched_hits: int
    moved_bytes: int
    seconds: float
    stall_seconds: float
    written_pages: int = 0
    waiting: int = 0
    paused: int = 0
    hot_slots: int = 0


__all__ = ["Decoder", "Generation", "PromptKV", "Request", "RuntimeConfig", "StepReport"]


class Decoder:
    """Decodes a batch of sequences of different lengths, one token each a step. More may wait than run.

    Example:
        decoder = Decoder.from_pretrained("model.gguf", RuntimeConfig(hbm_fraction=0.25), listen=True)
        request = decoder.submit(prompt_token_ids, max_new_tokens=64)
        for report in decoder.run():
            print(report.demand_misses)
        print(request.generation.tokens)
        decoder.close()
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        config: RuntimeConfig,
        *,
        name: str = "model",
        device: Device | None = None,
        progress: Progress = lambda done, total: None,
    ) -> None:
        """The model's device picks the backend, unless `device` does; `progress` is told how much memory is pinned."""
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.kv = PagedKV(model_shape(model, name), config, device or model.device, progress=progress)
        self.selector = SELECTORS[config.selector](self.kv)
        self.steering: Steering = Steering()
        padded = bucket(config.running) if self.kv.device else 0
        self.ahead = Lookahead(self.kv, self.selector, model, padded=padded) if config.lookahead else None
        self.epoch = 0
        self._plan_seconds = 0.0
        self.forward = Forward(model, rows=_ROWS if config.running > 1 else 1, threads=config.threads)
        self.steps: Steps = make_steps(self.kv, self.forward, self.selector, self.ahead)
        self._prefill = Prefill(self.kv, self.forward, self.selector)
        self.scheduler = Scheduler(self.kv, self._prefill.shared_pages)

    @classmethod
    def from_pretrained(
        cls,
        path: Path | str,
        config: RuntimeConfig,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        listen: bool = False,
    ) -> Decoder:
        """Load a Llama, Qwen, Mistral or SmolLM checkpoint folder or GGUF file; `listen` lets daemons attach.

        Raises ConfigError if the model cannot be loaded or served.
        """
        model, tokenizer = load_model(Path(path), dtype, device)
        decoder = cls(model, tokenizer, config, name=Path(path).stem)
        if listen:
            decoder.listen()
        return decoder

    def listen(self, *, endpoint: str | None = None, keys: CurveKeys | None = None) -> None:
        """Publish this process, so that `hotset ps` finds it and a daemon may attach; `close` ends it.

        `endpoint` and `keys` are those of ControlLink.
        """
        self.kv.manager.warm_up_steering()
        link = ControlLink(
            model=self.kv.shape.name,
            geometry=self.kv.geometry,
            builtin_policy=self.config.policy,
            capacity=self.scheduler.capacity,
            in_step=self.ahead.in_step if self.ahead else None,
            endpoint=endpoint,
            keys=keys,
        )
        self.steering = LinkSteering(link, lifetime=self.config.plan_lifetime, on_advice=self.scheduler.advise)

    @property
    def last_pass(self) -> DecodePass | None:
        """The pass of the last step, where the host has it (on a GPU it does not)."""
        return self.steps.last

    @property
    def running(self) -> list[Generation]:
        """Sequences that decode now."""
        return self.scheduler.running

    def submit(
        self,
        prompt: list[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] = lambda tokens: None,
        keep: PromptKV | None = None,
        given: PromptKV | None = None,
    ) -> Request:
        """Queue `prompt` (token ids): it starts in some step's beginning, when admission lets it and it has room.

        Arguments as for `open`. Raises ConfigError for an empty prompt, CapacityError for one that never has room.
        """
        request = Request.checked(prompt, max_new_tokens, sampling, progress, keep, given)
        needed, there = self.kv.groups_for(request.longest), len(self.kv.groups.references)
        if needed > there:
            raise CapacityError(f"a sequence of {request.longest} tokens needs {needed} page groups of {there}; "
                                "raise --max-tokens or shorten it")  # fmt: skip
        self.scheduler.waiting.append(request)
        return request

    def open(
        self,
        prompt: list[int],
        *,
        max_new_tokens: int,
        sampling: Sampling | None = None,
        progress: Callable[[int], None] = lambda tokens: None,
        keep: PromptKV | None = None,
        given: PromptKV | None = None,
    ) -> Generation:
        """Prefill `prompt` (token ids) and start a sequence now; `progress` is told tokens done, chunk by chunk.

        `keep` collects the prompt's K and V; `given` holds those of the same prompt and saves its computation.

        Raises ConfigError for an empty prompt, CapacityError if no tier has room; nothing is kept then.
        """
        self.steps.drop()
        return self._start(Request.checked(prompt, max_new_tokens, sampling, progress, keep, given))

    def fork(self, parent: Generation, *, max_new_tokens: int, sampling: Sampling | None = None) -> Generation:
        """Continue `parent` in a second sequence that shares its sealed pages; the next tokens may differ."""
        self.steps.drop()
        sequence = self.kv.fork(parent.sequence)
        child = Generation(sequence, parent.prompt, max_new_tokens, Sampler(sampling or Sampling()))
        child.tokens = list(parent.tokens)
        child.max_new_tokens += len(parent.tokens)
        self._announce(child)
        return child

    def run(self) -> Iterator[StepReport]:
        """Step until every sequence has finished and nobody waits."""
        while self._schedule():
            yield self._step()

    def step(self) -> StepReport:
        """Decode one token for every running sequence. Never waits for a daemon."""
        if not self._schedule():
            raise CapacityError("nothing to decode; submit a prompt first")
        return self._step()

    @torch.inference_mode()
    def _step(self) -> StepReport:
        start, before = time.perf_counter(), self._counts()
        batch = self._begin_tokens(launched=self.steps.launched)
        self.steering.guide(self.ahead, self.epoch)
        tell = self.steering.attached
        hooks = Hooks(self._safe_point, lambda: self._end_tokens(batch), self._follow, lambda: self._goes_on(batch))
        tokens = self.steps.run(batch, hooks, epoch=self.epoch, tell=tell)
        for generation, token in zip(batch, tokens, strict=True):
            generation.tokens.append(token)
        self.steps.finish()
        report = self._report(start, before, len(batch))
        if self.ahead is not None:
            self.ahead.end_step(report.seconds)
        self.steering.end_step(self.epoch, self.kv.manager.tick())
        if tell:
            self.steps.publish(self.steering, [g.sequence for g in batch], self.epoch, self._stats(report))
        else:
            self.kv.forget_changes()  # whoever attaches later asks for a snapshot
        if self.steering.snapshot_wanted() and not self.steps.launched:
            self._send(events.snapshot(self.kv, self.epoch))
        self.epoch += 1
        self._retire()
        return report

    def close(self) -> None:
        """End all sequences and give back memory, files and threads."""
        self.steps.drop()
        for generation in list(self.scheduler.everybody()):
            self._finish(generation, "closed")
        self.steps.close()
        self.steering.close()
        if self.ahead is not None:
            self.ahead.close()
        self.kv.manager.close()

    @torch.inference_mode()
    def _schedule(self) -> bool:
        """Retire, pause, resume and admit until somebody runs; False if nobody is left."""
        self._retire()
        if self.steps.launched and self.running:
            self.steering.heed()
            self.scheduler.admission.skip()
            return True
        self.steps.drop()
        while not self._turn():
            if not self.scheduler.paused and not self.scheduler.waiting:
                return False
        return True

    def _turn(self) -> bool:
        self.steering.heed()
        for _ in range(self.scheduler.turn()):
            try:
                self.scheduler.waiting[0].generation = self._start(self.scheduler.waiting[0])
            except CapacityError:
                if not any(self.scheduler.everybody()):
                    raise
                break  # it goes on waiting for what the others hold
            self.scheduler.waiting.popleft()
        self._retire()  # prompts that wanted one token only
        return bool(self.running)

    @torch.inference_mode()
    def _start(self, request: Request) -> Generation:
        sequence = self.kv.open(len(request.prompt), shared=self._prefill.shared_pages(request.prompt))
        generation = Generation(sequence, request.prompt, request.max_new_tokens, Sampler(request.sampling))
        try:
            generation.tokens.append(generation.sampler(self._prefill.run(sequence, request)))
        except BaseException:
            self.kv.close(sequence)
            raise
        self._announce(generation)
        return generation

    def _announce(self, generation: Generation) -> None:
        sequence = generation.sequence
        self.scheduler.add(generation)
        self._send(events.sequence_open(self.kv, sequence))
        self.kv.new_groups = [new for new in self.kv.new_groups if new[0] != sequence.id]

    def _begin_tokens(self, launched: bool) -> list[Generation]:
        """Give every running sequence a place for its next token; those that find none finish with 'capacity'."""
        if not launched:  # else it has begun already, and no slot may move
            self.kv.manager.begin_step()
        batch = []
        for generation in list(self.running):
            try:
                self.kv.begin_token(generation.sequence)
                batch.append(generation)
            except CapacityError as error:
                self._finish(generation, f"capacity: {error}")
        if not batch:
            raise CapacityError("no running sequence has room for another token; raise --max-tokens")
        if not launched:
            self.scheduler.resize()
        return batch

    def _end_tokens(self, batch: list[Generation]) -> None:
        self.kv.end_tokens([g.sequence for g in batch])
        self.kv.open_next([g.sequence for g in batch if len(g.tokens) + 1 < g.max_new_tokens])

    def _goes_on(self, batch: list[Generation]) -> bool:
        """See Hooks: only an end of text is not foreseen, and a step that was launched can do without its sequence."""
        return (
            len(batch) == len(self.running)
            and self.scheduler.steady()
            and not self.steering.snapshot_wanted()
            and all(len(g.tokens) + 1 < g.max_new_tokens and self.kv.has_place(g.sequence) for g in batch)
        )

    def _send(self, message: Published) -> None:
        self.steps.send(self.steering, message)

    def _safe_point(self) -> None:
        # Whoever waits may be prefilled next.
        self.kv.manager.overlaps(self.config.chunk if self.scheduler.waiting else len(self.running))
        self.kv.manager.commit_prefetches()

    def _follow(self, epoch: int, patience: float) -> None:
        start = time.perf_counter()
        self.steering.apply(self.kv.manager, epoch, patience)
        if epoch == self.epoch:  # for the next step, it is while a device computes this one
            self._plan_seconds += time.perf_counter() - start

    def _take_plan_us(self) -> int:
        taken, self._plan_seconds = int(self._plan_seconds * 1e6), 0.0
        return taken

    def _retire(self) -> None:
        stop = self.tokenizer.eos_token_id if self.tokenizer is not None else None
        for generation in list(self.scheduler.everybody()):
            if len(generation.tokens) >= generation.max_new_tokens:
                self._finish(generation, "length")
            elif generation.tokens[-1] == stop:
                self._finish(generation, "stop")

    def _finish(self, generation: Generation, reason: str) -> None:
        generation.finished = reason
        self.scheduler.remove(generation)
        self._prefill.prefixes.remove(generation.sequence.id)
        self._send(events.sequence_close(generation.sequence, reason))
        self.kv.close(generation.sequence)

    def _counts(self) -> tuple[int, ...]:
        moved = self.kv.manager.moved
        pages = moved.demand_pages + moved.prefetch_pages
        return moved.accesses, moved.demand_pages, moved.prefetched_hits, pages, moved.written_pages

    def _report(self, start: float, before: tuple[int, ...], sequences: int) -> StepReport:
        accesses, misses, hits, moved, written = (now - then for now, then in zip(self._counts(), before, strict=True))
        manager, scheduler = self.kv.manager, self.scheduler
        return StepReport(
            epoch=self.epoch,
            sequences=sequences,
            accesses=accesses,
            demand_misses=misses,
            prefetched_hits=hits,
            moved_bytes=moved * manager.page_bytes,
            seconds=time.perf_counter() - start,
            stall_seconds=manager.take_stall(),
            written_pages=written,
            waiting=len(scheduler.waiting),
            paused=len(scheduler.paused),
            hot_slots=0 if scheduler.hot_slots is None else manager.hot_slots(),
        )

    def _stats(self, report: StepReport) -> Stats:
        manager = self.kv.manager
        reserve, free = manager.levels()
        return partial(
            StepStats,
            step_us=int(report.seconds * 1e6),
            stall_us=int(report.stall_seconds * 1e6),
            plan_us=self._take_plan_us(),
            demand_pages=report.demand_misses,
            prefetch_pages=report.moved_bytes // manager.page_bytes - report.demand_misses,
            moved_bytes=report.moved_bytes,
            written_pages=report.written_pages,
            waiting=report.waiting,
            paused=report.paused,
            hot_slots=report.hot_slots,
            reserve=reserve,
            free=free,
            steps_dropped=self.steering.steps_dropped(),
            plans_applied=manager.moved.plans_applied,
            entries_applied=manager.moved.entries_applied,
            entries_rejected=dict(manager.moved.entries_rejected),
            device_model=self.ahead.heads.version if self.ahead else "",
            warming=self.steps.warming,
        )
