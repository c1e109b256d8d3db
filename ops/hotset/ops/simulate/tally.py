"""What a simulation counts, and what it reports of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from hotset.ops.simulate.tables import Accesses, Playing
from hotset.protos.messages import AccessFlag, Advice


@dataclass(frozen=True)
class StepRecord:
    """One step; a page is one page of one lane, times are microseconds of virtual time."""

    start_us: float
    step_us: float
    stall_us: float
    running: int
    waiting: int
    paused: int
    demand_pages: int
    cold_fills: int
    prefetch_pages: int
    ahead_pages: int
    """of these, begun inside the step"""
    prefetched_hits: int
    written_pages: int
    hot_slots: int
    concurrency: int

    @property
    def moved_pages(self) -> int:
        """Pages over the host link towards the device."""
        return self.demand_pages + self.prefetch_pages


@dataclass(frozen=True)
class Served:
    """One request: when it came, started and ended, and its tokens."""

    number: int
    arrival_us: float
    admitted_us: float
    finished_us: float
    tokens: int

    @property
    def token_us(self) -> float:
        """Time per output token."""
        return (self.finished_us - self.admitted_us) / self.tokens


@dataclass(frozen=True)
class Advised:
    """An advice that the engine followed."""

    epoch: int
    at_us: float
    concurrency: int | None
    admit_every: int | None
    hot_slots: int | None
    groups: int
    reason: str


@dataclass
class Tally:
    """Counts of one run."""

    page_bytes: int
    steps: list[StepRecord] = field(default_factory=list)
    served: list[Served] = field(default_factory=list)
    advice: list[Advised] = field(default_factory=list)
    accesses: int = 0
    hits: int = 0
    wasted_pages: int = 0
    warm_pages: int = 0
    plans_applied: int = 0
    plans_late: int = 0
    plans_learned: int = 0
    plan_age_steps: int = 0
    entries_applied: int = 0
    seconds: float = 0.0

    def step(self, record: StepRecord, done: Accesses) -> None:
        """One step is over."""
        self.steps.append(record)
        self.accesses += int(np.count_nonzero(done.selected))
        self.hits += int(np.count_nonzero(done.flags & AccessFlag.HIT))

    def sequence(self, playing: Playing) -> None:
        """A request is served."""
        request = playing.request
        self.served.append(
            Served(request.number, request.arrival_us, playing.admitted_us, playing.finished_us, playing.steps)
        )

    def advised(self, epoch: int, now_us: float, advice: Advice) -> None:
        """The engine follows an advice from now on."""
        self.advice.append(
            Advised(
                epoch, now_us, advice.concurrency, advice.admit_every, advice.hot_slots, len(advice.groups),
                advice.reason,
            )
        )  # fmt: skip

    def finish(self, now_us: float) -> None:
        """All requests are done."""
        self.seconds = now_us / 1e6

    def total(self, name: str) -> Any:
        """Sum of a field or property of all steps."""
        return sum(getattr(step, name) for step in self.steps)

    def goodput(self, first: int = 0, end: int | None = None) -> float:
        """Tokens a second of step time of steps `first` to `end`: time that a node idles is not its own doing."""
        steps = self.steps[first:end]
        return 1e6 * sum(s.running for s in steps) / sum(s.step_us for s in steps)

    def report(self) -> dict[str, Any]:
        """What `hotset simulate --json` prints; docs/simulate.md says what each field means."""
        tokens, misses = self.total("running"), self.total("demand_pages")
        prefetched, used = self.total("prefetch_pages"), self.total("prefetched_hits")
        step_us = self.total("step_us")
        return {
            "sequences": len(self.served),
            "steps": len(self.steps),
            "tokens": tokens,
            "seconds": self.seconds,
            "tokens_per_second": tokens / self.seconds if self.seconds else 0.0,
            "stall_share": self.total("stall_us") / step_us if step_us else 0.0,
            "running_mean": self.total("running") / max(1, len(self.steps)),
            "paused_mean": self.total("paused") / max(1, len(self.steps)),
            "step_ms": quantiles([s.step_us / 1e3 for s in self.steps]),
            "token_ms": quantiles([s.token_us / 1e3 for s in self.served]),
            "wait_ms": quantiles([(s.admitted_us - s.arrival_us) / 1e3 for s in self.served]),
            "accesses": self.accesses,
            "demand_misses": misses,
            "miss_ratio": misses / max(1, self.accesses),
            "cold_fills": self.total("cold_fills"),
            "prefetched_pages": prefetched,
            "ahead_pages": self.total("ahead_pages"),
            "prefetched_hits": used,
            "prefetch_precision": used / prefetched if prefetched else None,
            "warm_pages": self.warm_pages,
            "written_pages": self.total("written_pages"),
            "moved_bytes": (misses + prefetched) * self.page_bytes,
            "plans_applied": self.plans_applied,
            "plans_learned": self.plans_learned,
            "plans_late": self.plans_late,
            "plan_age_steps": self.plan_age_steps / self.plans_applied if self.plans_applied else None,
            "entries_applied": self.entries_applied,
            "advice_followed": len(self.advice),
            "last_advice": asdict(self.advice[-1]) if self.advice else None,
        }


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """The 0.5, 0.95 and 0.99 quantiles; 0 of nothing."""
    found = np.quantile(values, [0.5, 0.95, 0.99]) if len(values) else np.zeros(3)
    return {"p50": float(found[0]), "p95": float(found[1]), "p99": float(found[2])}
