"""The decode loop: prompts in, tokens out, over a tiered KV cache that a daemon may steer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import StepStats
from hotset.runtime import events
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.groups import Sequence
from hotset.runtime.huggingface import TieredCache, load_model, model_shape
from hotset.runtime.link import ControlLink
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import DecodePass, PrefillPass, warm_pages
from hotset.runtime.sampling import Sampler, Sampling
from hotset.runtime.selectors import SELECTORS
from hotset.runtime.steering import LinkSteering, Steering


@dataclass
class Generation:
    """One sequence's prompt and what has come out of it."""

    sequence: Sequence
    prompt: list[int]
    max_new_tokens: int
    sampler: Sampler
    tokens: list[int] = field(default_factory=list)
    finished: str = ""


@dataclass
class PromptKV:
    """K and V of a prompt as the model made them, per chunk and layer, and the logits behind its last token.

    Kept by `Decoder.open(keep=...)` outside all tiers; `Decoder.open(given=...)` takes them instead of a prefill.
    """

    chunks: list[list[tuple[torch.Tensor, torch.Tensor]]] = field(default_factory=list)
    logits: torch.Tensor = field(default_factory=lambda: torch.empty(0))


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


__all__ = ["Decoder", "Generation", "PromptKV", "RuntimeConfig", "StepReport"]


class Decoder:
    """Decodes a batch of sequences of different lengths, one token each a step.

    Example:
        decoder = Decoder.from_pretrained("model.gguf", RuntimeConfig(hbm_fraction=0.25), listen=True)
        decoder.open(prompt_token_ids, max_new_tokens=64)
        for report in decoder.run():
            print(report.demand_misses)
        decoder.close()
    """

    def __init__(self, model: Any, tokenizer: Any, config: RuntimeConfig, *, name: str = "model") -> None:
        self.model, self.tokenizer, self.config = model, tokenizer, config
        self.kv = PagedKV(model_shape(model, name), config, model.device)
        self.selector = SELECTORS[config.selector](self.kv)
        self.steering: Steering = Steering()
        self.running: list[Generation] = []
        self.epoch = 0
        self.last_pass: DecodePass | None = None
        self._cache = TieredCache()

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

    def listen(self) -> None:
        """Publish this process, so that `hotset ps` finds it and a daemon may attach; `close` ends it."""
        link = ControlLink(model=self.kv.shape.name, geometry=self.kv.geometry, builtin_policy=self.config.policy)
        self.steering = LinkSteering(link, lifetime=self.config.plan_lifetime)

    @torch.inference_mode()
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
        """Prefill `prompt` (token ids) and start a sequence; `progress` is told tokens done, chunk by chunk.

        `keep` collects the prompt's K and V; `given` holds those of the same prompt and saves its computation.

        Raises ConfigError for an empty prompt, CapacityError if no tier has room; nothing is kept then.
        """
        if not prompt or max_new_tokens < 1:
            raise ConfigError("a prompt needs at least one token, and max_new_tokens must be 1 or more")
        sequence = self.kv.open(len(prompt))
        generation = Generation(sequence, prompt, max_new_tokens, Sampler(sampling or Sampling()))
        try:
            logits = self._prefill(sequence, prompt, progress, keep, given)
            generation.tokens.append(generation.sampler(logits))
        except BaseException:
            self.kv.close(sequence)
            raise
        self.running.append(generation)
        self.steering.publish(events.sequence_open(self.kv, sequence))
        self.kv.new_groups = [new for new in self.kv.new_groups if new[0] != sequence.id]
        return generation

    def fork(self, parent: Generation, *, max_new_tokens: int, sampling: Sampling | None = None) -> Generation:
        """Continue `parent` in a second sequence that shares its sealed pages; the next tokens may differ."""
        sequence = self.kv.fork(parent.sequence)
        child = Generation(sequence, parent.prompt, max_new_tokens, Sampler(sampling or Sampling()))
        child.tokens = list(parent.tokens)
        child.max_new_tokens += len(parent.tokens)
        self.running.append(child)
        self.steering.publish(events.sequence_open(self.kv, sequence))
        self.kv.new_groups = [new for new in self.kv.new_groups if new[0] != sequence.id]
        return child

    def run(self) -> Iterator[StepReport]:
        """Step until every sequence has finished."""
        self._retire()
        while self.running:
            yield self.step()

    @torch.inference_mode()
    def step(self) -> StepReport:
        """Decode one token for every running sequence. Never waits for a daemon."""
        start, before = time.perf_counter(), self._counts()
        self.kv.manager.begin_step()
        batch = self._begin_tokens()
        sequences = [g.sequence for g in batch]
        self.last_pass = done = DecodePass(self.kv, sequences, self.selector, self._safe_point)
        logits = self._forward(
            done, [[g.tokens[-1]] for g in batch], [[s.length - 1] for s in sequences], max(s.length for s in sequences)
        )
        for generation, row in zip(batch, logits, strict=True):
            generation.tokens.append(generation.sampler(row))
            self.kv.end_token(generation.sequence)
        self.kv.manager.observe(*done.candidate_heat(margins=self.kv.manager.by_margin))
        self.kv.manager.end_step()
        report = self._report(start, before, len(batch))
        self.steering.end_step(self.epoch, int(self.kv.manager.state.tick))
        if self.steering.attached:
            self.steering.publish(events.step_message(self.kv, done, sequences, self.epoch, self._stats(report)))
        else:
            self.kv.forget_changes()  # whoever attaches later asks for a snapshot
        if self.steering.snapshot_wanted():
            self.steering.publish(events.snapshot(self.kv, self.epoch))
        self.epoch += 1
        self._retire()
        return report

    def close(self) -> None:
        """End all sequences and give back memory, files and threads."""
        for generation in list(self.running):
            self._finish(generation, "closed")
        self.steering.close()
        self.kv.manager.close()

    def _prefill(
        self,
        sequence: Sequence,
        prompt: list[int],
        progress: Callable[[int], None],
        keep: PromptKV | None,
        given: PromptKV | None,
    ) -> torch.Tensor:
        size = self.config.page_size
        chunk = -(-self.config.prefill_chunk // size) * size
        for number, start in enumerate(range(0, len(prompt), chunk)):
            part = prompt[start : start + chunk]
            done = PrefillPass(self.kv, sequence, len(part), keep=keep is not None)
            if given is not None:
                for layer, (keys, values) in enumerate(given.chunks[number]):
                    done.append(layer, keys, values)
                logits = given.logits
            else:
                logits = self._forward(done, [part], [list(range(start, start + len(part)))], start)
            if keep is not None:
                keep.chunks.append(done.kept)
                keep.logits = logits
            progress(len(part))
        warm_pages(self.kv, sequence, done.last_queries, self.selector, done.scale)
        return logits[0]

    def _forward(
        self, done: PrefillPass | DecodePass, tokens: list[list[int]], positions: list[list[int]], seen: int
    ) -> torch.Tensor:
        """Logits of the last token of each row, [B, vocabulary]."""
        device = self.model.device
        self._cache.current, self._cache.seen = done, seen
        out = self.model(
            input_ids=torch.tensor(tokens, device=device),
            position_ids=torch.tensor(positions, device=device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            hotset=done,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def _begin_tokens(self) -> list[Generation]:
        """Give every running sequence a place for its next token; those that find none finish with 'capacity'."""
        batch = []
        for generation in list(self.running):
            try:
                self.kv.begin_token(generation.sequence)
                batch.append(generation)
            except CapacityError as error:
                self._finish(generation, f"capacity: {error}")
        if not batch:
            raise CapacityError("no running sequence has room for another token; raise --max-tokens")
        return batch

    def _safe_point(self) -> None:
        self.kv.manager.commit_prefetches()
        self.steering.apply(self.kv.manager, self.epoch)

    def _retire(self) -> None:
        stop = self.tokenizer.eos_token_id if self.tokenizer is not None else None
        for generation in list(self.running):
            if len(generation.tokens) >= generation.max_new_tokens:
                self._finish(generation, "length")
            elif generation.tokens[-1] == stop:
                self._finish(generation, "stop")

    def _finish(self, generation: Generation, reason: str) -> None:
        generation.finished = reason
        self.running.remove(generation)
        self.steering.publish(events.sequence_close(generation.sequence, reason))
        self.kv.close(generation.sequence)

    def _counts(self) -> tuple[int, ...]:
        moved = self.kv.manager.moved
        pages = moved.demand_pages + moved.prefetch_pages
        return moved.accesses, moved.demand_pages, moved.prefetched_hits, pages * self.kv.manager.page_bytes

    def _report(self, start: float, before: tuple[int, ...], sequences: int) -> StepReport:
        accesses, misses, hits, moved = (now - then for now, then in zip(self._counts(), before, strict=True))
        stall = self.kv.manager.take_stall()
        return StepReport(self.epoch, sequences, accesses, misses, hits, moved, time.perf_counter() - start, stall)

    def _stats(self, report: StepReport) -> StepStats:
        manager = self.kv.manager
        return StepStats(
            step_us=int(report.seconds * 1e6),
            stall_us=int(report.stall_seconds * 1e6),
            demand_pages=report.demand_misses,
            prefetch_pages=report.moved_bytes // manager.page_bytes - report.demand_misses,
            moved_bytes=report.moved_bytes,
            reserve=manager.reserve_level(),
            free=manager.free_slots(),
            steps_dropped=self.steering.steps_dropped(),
            plans_applied=manager.moved.plans_applied,
            entries_applied=manager.moved.entries_applied,
            entries_rejected=dict(manager.moved.entries_rejected),
        )
