"""A decode process for the daemon's benchmarks: publishes made-up steps of many lanes at a pace, over a real link.

    python tests/bench/daemon_load.py FOLDER [--sequences 64] [--rate 4e6] [--seconds 15] ...

Prints one JSON object when it is done. Pages are drawn with drifting popularity (a few hot ones, a long tail); every
lane holds twice its selection in slots, misses load, victims are drawn at random. `bench_ingest.py` and `bench_plan.py`
start it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hotset.protos.messages import Geometry, SequenceOpen, Snapshot, Step, StepStats
from hotset.runtime.link import ControlLink

LAYERS, HEADS, PAGES, SELECTED, CANDIDATES, PAGE_SIZE, PAGE_BYTES = 24, 2, 1900, 64, 128, 16, 8192
LANES = LAYERS * HEADS
PATTERNS = 96
LINK_BYTES_PER_US = 50e3
Int32 = npt.NDArray[np.int32]


def made_steps(count: int = PATTERNS, seed: int = 0) -> tuple[Int32, npt.NDArray[np.uint8]]:
    """Candidates, best first, and their scores, [count, LANES, CANDIDATES]."""
    random = np.random.default_rng(seed)
    liked = random.random((LANES, PAGES), np.float32) ** 4
    pages = np.empty((count, LANES, CANDIDATES), np.int32)
    scores = np.empty(pages.shape, np.uint8)
    for t in range(count):
        liked = 0.97 * liked + 0.03 * random.random((LANES, PAGES), np.float32) ** 4
        asked = liked + 0.1 * random.random((LANES, PAGES), np.float32)
        pages[t] = np.argsort(-asked, axis=1)[:, :CANDIDATES]
        scores[t] = np.clip(200 * np.take_along_axis(asked, pages[t], 1), 0, 255)
    return pages, scores


def geometry(sequences: int) -> Geometry:
    """Of so many sequences, with two selections a lane in slots."""
    return Geometry(
        layers=LAYERS, kv_heads=HEADS, page_size=PAGE_SIZE, selected=SELECTED, candidates=CANDIDATES,
        page_bytes=PAGE_BYTES, slots=2 * SELECTED * LANES * sequences, groups=PAGES * sequences,
    )  # fmt: skip


class Node:
    """Slots and steps of `sequences` sequences that decode together."""

    def __init__(self, sequences: int, period_us: int) -> None:
        self.shape, self.sequences, self._period = geometry(sequences), sequences, period_us
        self._pages, self._scores = made_steps()
        self._random = np.random.default_rng(1)
        lane = np.arange(LANES, dtype=np.int32)[:, None]
        held = [(i * PAGES + self._pages[0]) * LANES + lane for i in range(sequences)]
        self.page_of: Int32 = np.concatenate(held).ravel().astype(np.int32)
        self.resident = np.zeros(self.shape.groups * LANES, np.bool_)
        self.resident[self.page_of] = True
        self._used = np.zeros(len(self.resident), np.int32)
        self._lane = np.tile(lane, (sequences, 1))
        self._first = np.repeat(np.arange(sequences, dtype=np.int32) * PAGES, LANES)[:, None]
        self._flags = np.zeros((LANES * sequences, CANDIDATES), np.uint8)

    def openings(self) -> list[SequenceOpen]:
        """Of all sequences."""
        return [
            SequenceOpen(
                sequence=i, prompt_tokens=PAGES * PAGE_SIZE, groups=np.arange(PAGES, dtype="<i4") + i * PAGES,
                generations=np.zeros(PAGES, "<u4"),
            )
            for i in range(self.sequences)
        ]  # fmt: skip

    def snapshot(self, epoch: int) -> Snapshot:
        """As of `epoch`."""
        count = self.sequences
        full = np.full(count, PAGES * PAGE_SIZE, "<i4")
        return Snapshot(
            epoch=epoch, sequences=list(range(count)), prompt_tokens=full, lengths=full,
            sequence_steps=np.full(count, epoch, "<i4"), offsets=np.arange(count + 1, dtype="<i4") * PAGES,
            groups=np.arange(count * PAGES, dtype="<i4"), generations=np.zeros(count * PAGES, "<u4"),
            resident=self.page_of.copy(),
        )  # fmt: skip

    def step(self, epoch: int) -> Step:
        """The step `epoch`, sequences each in another phase."""
        phase = [(epoch + 7 * i) % PATTERNS for i in range(self.sequences)]
        pages = self._pages[phase].reshape(-1, CANDIDATES)
        chosen = ((self._first + pages[:, :SELECTED]) * LANES + self._lane).ravel()
        hit = self.resident[chosen]
        flags = self._flags.copy()
        flags[:, :SELECTED] = 1 + 2 * hit.reshape(-1, SELECTED)
        self._used[chosen] = epoch
        missed = chosen[~hit].astype("<i4")
        slots = self._random.permutation(len(self.page_of))[: 3 * len(missed)]
        slots = slots[self._used[self.page_of[slots]] != epoch][: len(missed)]
        missed = missed[: len(slots)]
        evicted = self.page_of[slots].astype("<i4")
        self.page_of[slots] = missed
        self.resident[evicted], self.resident[missed] = False, True
        none = np.zeros(0, "<i4")
        moved = len(missed) * PAGE_BYTES
        return Step(
            epoch=epoch, sequences=list(range(self.sequences)),
            lengths=np.full(self.sequences, PAGES * PAGE_SIZE, "<i4"),
            sequence_steps=np.full(self.sequences, epoch, "<i4"), candidates=pages,
            scores=self._scores[phase].reshape(-1, CANDIDATES), flags=flags, new_sequence=np.zeros(0, "<i8"),
            new_group=none, new_generation=np.zeros(0, "<u4"), loaded=missed, evicted=evicted,
            stats=StepStats(
                step_us=self._period, stall_us=int(moved / LINK_BYTES_PER_US), demand_pages=len(missed),
                moved_bytes=moved, reserve=len(self.page_of) // 32,
            ),
        )  # fmt: skip


class Plans:
    """What comes of plans at the safe points of a decode process, whose reserve takes `most` prefetches."""

    def __init__(self, most: int) -> None:
        self.counts = False
        self.published = 0.0
        self.waits: list[float] = []
        """Seconds from publishing a step to the first plan after it."""
        self.ages: list[int] = []
        """Steps since the one that it was made from, of each plan that holds."""
        self.entries: list[int] = [0]
        self.too_late = self.most_prefetches = 0
        self._most = most

    def take(self, link: ControlLink, epoch: int) -> bool:
        """At a safe point before or in step `epoch`; whether there was a plan."""
        plan = link.take_plan()
        if plan is None:
            return False
        assert len(plan.prefetch) <= self._most, "more prefetches than the reserve takes"
        if self.counts:
            self.waits.append(time.perf_counter() - self.published)
            self.too_late += plan.deadline < epoch
            self.ages += [epoch - 1 - plan.epoch] if plan.deadline >= epoch else []
            self.entries.append(len(plan.pages) + len(plan.prefetch))
            self.most_prefetches = max(self.most_prefetches, len(plan.prefetch))
        return True


def serve(folder: Path, sequences: int, period: float, seconds: float, warm: float) -> dict[str, Any]:
    """Publish for `warm` and then `seconds`; figures are of the latter."""
    node, epoch, late = Node(sequences, int(period * 1e6)), 0, 0.0
    plans = Plans(len(node.page_of) // 32)
    with ControlLink(model="load", geometry=node.shape, builtin_policy="ema", folder=folder) as link:
        for opening in node.openings():
            link.publish(opening)
        while not link.attached:
            time.sleep(0.01)
        begin = due = time.perf_counter()
        first, used = 0, 0.0
        while due < begin + warm + seconds:
            epoch += 1
            if link.snapshot_wanted():
                link.publish(node.snapshot(epoch - 1))
            if not first and due >= begin + warm:
                first, used = epoch, time.process_time()
            message = node.step(epoch)
            pause = due - time.perf_counter()
            late = min(late, pause)
            time.sleep(max(0.0, pause))
            plans.take(link, epoch)
            plans.published, due = time.perf_counter(), max(due + period, time.perf_counter())
            plans.counts = bool(first)
            link.publish(message)
            while not plans.take(link, epoch + 1) and time.perf_counter() < due - period / 3:
                time.sleep(1e-4)
        spent = time.process_time() - used
        time.sleep(0.5)
        dropped = link.counters.steps_dropped + link.counters.outbox_steps_dropped
    steps = epoch - first + 1
    took = time.perf_counter() - 0.5 - begin - warm
    return {
        "steps": steps, "steps_total": epoch, "steps_dropped": dropped,
        "plans": len(plans.ages), "plans_too_late": plans.too_late,
        "entries_a_plan": round(statistics.median(plans.entries)),
        "plan_age_steps": {"p50": statistics.median(plans.ages), "most": max(plans.ages)} if plans.ages else {},
        "accesses_per_s": round(steps * sequences * LANES * SELECTED / took),
        "candidates_per_s": round(steps * sequences * LANES * CANDIDATES / took),
        "plan_ms": quantiles(plans.waits), "most_prefetches": plans.most_prefetches, "latest_ms": round(-late * 1e3, 1),
        "process_share": round(spent / took, 2),
    }  # fmt: skip


def quantiles(seconds: list[float]) -> dict[str, float]:
    """Milliseconds: least, median, 0.99."""
    if len(seconds) < 2:
        return {}
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"least": round(min(seconds) * 1e3, 2), "p50": round(cuts[49] * 1e3, 2), "p99": round(cuts[98] * 1e3, 2)}


def start(folder: Path, **options: float) -> subprocess.Popen[str]:
    """Start this file as a process of its own."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return subprocess.Popen([sys.executable, __file__, str(folder), *words], stdout=subprocess.PIPE, text=True)


def main() -> None:
    """Be the decode process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--rate", type=float, default=4e6, help="selected pages a second")
    parser.add_argument("--seconds", type=float, default=15.0)
    parser.add_argument("--warm", type=float, default=5.0)
    told = parser.parse_args()
    period = told.sequences * LANES * SELECTED / told.rate
    print(json.dumps(serve(told.folder, told.sequences, period, told.seconds, told.warm)))


if __name__ == "__main__":
    main()
