"""What being attached costs a decode on the CPU: paired steps of two decoders, one alone, one with peers.

    python tests/bench/bench_attached.py [--steps 60] [--context 2048] [--sequences 3] [--threads 1] [--daemon]

Both decoders serve the demo's model with the same prompts and do the same step one after the other, in an order that
alternates. The attached one has an observer and a controller in a child process; the controller answers every step
with a value for every resident page. With --daemon the controller is `hotset daemon`.
Prints one JSON object: medians of the paired ratios, and where they lie, of the steps' clock time, of the same without
what swap-ins took (plans change how many there are), and of the decode thread's processor time; what of it the parts
took; and the processor time of other threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.heat import DECAY
from hotset.protos.messages import Attach, Geometry, Hello, Plan, Snapshot, SnapshotRequest, Step
from hotset.protos.transport import ZmqClient
from hotset.protos.wire import decode as read
from hotset.protos.wire import encode as write
from hotset.runtime import events
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV
from hotset.runtime.huggingface import load_model
from hotset.runtime.steering import LinkSteering

WARM_UP = 5


def main() -> None:
    """Measure, or be the peer that the measuring process starts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--sequences", type=int, default=3)
    parser.add_argument("--hbm-fraction", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--daemon", action="store_true")
    parser.add_argument("--peer", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.peer:
        be_peers(told.peer)
    else:
        print(json.dumps(measure(told), indent=1))


def measure(told: argparse.Namespace) -> dict[str, Any]:
    """Paired steps of both decoders."""
    import torch

    torch.set_num_threads(told.threads)
    os.environ["HOTSET_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="hotset-bench-")
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    texts = samples.split_text(samples.long_text(), told.sequences)
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    both = decoders_of(model, prompts, told)
    both[1].listen()
    peers = start_peers(both[1], told.daemon)
    parts = time_parts(both[1])
    clock: list[list[float]] = [[], []]
    thread: list[list[float]] = [[], []]
    still: list[list[float]] = [[], []]
    for step in range(WARM_UP + told.steps):
        if step == WARM_UP:
            parts.clear()
            others = other_threads()
        for which in (0, 1) if step % 2 else (1, 0):
            begin, used = time.perf_counter(), time.thread_time()
            stall = both[which].step().stall_seconds
            if step >= WARM_UP:
                clock[which].append(time.perf_counter() - begin)
                thread[which].append(time.thread_time() - used)
                still[which].append(clock[which][-1] - stall)
    now = other_threads()
    spent = {name: now[name] - others.get(name, 0.0) for name in now}
    result = summary({"clock": clock, "clock_but_swap_in": still, "thread_time": thread}, parts, spent, both)
    for decoder in both:
        decoder.close()
    peers.terminate()
    peers.wait()
    return result


def decoders_of(model: Any, prompts: list[list[int]], told: argparse.Namespace) -> list[Decoder]:
    """Two decoders with all prompts open; the second takes the K and V that the first has computed."""
    steps = told.steps + WARM_UP + 2
    config = RuntimeConfig.checked(
        max_tokens=sum(map(len, prompts)) + steps * len(prompts), max_sequences=len(prompts),
        hbm_fraction=told.hbm_fraction, policy="score-ema",
    )  # fmt: skip
    decoders = [Decoder(model, None, config, name="bench") for _ in range(2)]
    for prompt in prompts:
        kept = PromptKV()
        decoders[0].open(prompt, max_new_tokens=steps, keep=kept)
        decoders[1].open(prompt, max_new_tokens=steps, given=kept)
    return decoders


def start_peers(decoder: Decoder, daemon: bool) -> subprocess.Popen[bytes]:
    """A child that observes and controls; returns once it holds the lease."""
    assert isinstance(decoder.steering, LinkSteering)
    link = decoder.steering.link
    if daemon:
        logs = tempfile.mkdtemp(prefix="hotset-bench-")
        command = [sys.executable, "-m", "hotset.ops", "daemon", "--pid", str(os.getpid()), "--log-dir", logs]
    else:
        command = [sys.executable, __file__, "--peer", link.endpoint]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not link.counters.lease_changes:
        assert child.poll() is None, "the peer has ended"
        time.sleep(0.05)
    return child


def time_parts(decoder: Decoder) -> defaultdict[str, list[float]]:
    """Note the thread time of whatever only an attached decoder does."""
    spent: defaultdict[str, list[float]] = defaultdict(list)

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            begin = time.thread_time()
            result = call(*arguments)
            spent[name].append(time.thread_time() - begin)
            return result

        return run

    steering: Any = decoder.steering
    steering._apply_plan = timed("apply_plan", steering._apply_plan)
    steering.publish = timed("publish", steering.publish)
    events.step_message = timed("step_message", events.step_message)
    return spent


def other_threads() -> dict[str, float]:
    """Processor seconds of all threads of this process but this one, by name; ZeroMQ's have none."""
    names = {t.native_id: t.name for t in threading.enumerate()}
    names[threading.get_native_id()] = ""
    spent: dict[str, float] = defaultdict(float)
    for task in Path("/proc/self/task").iterdir():
        if name := names.get(int(task.name), "others"):
            # Nanoseconds on a processor; see proc(5).
            spent[name] += int((task / "schedstat").read_text().split()[0]) / 1e9
    return spent


def summary(
    times: dict[str, list[list[float]]],
    parts: dict[str, list[float]],
    others: dict[str, float],
    decoders: list[Decoder],
) -> dict[str, Any]:
    """Medians, in microseconds but for the ratios."""
    steps = len(times["clock"][0])
    moved = [d.kv.manager.moved for d in decoders]
    return {
        "steps": steps,
        "step_us_alone": round(statistics.median(times["clock"][0]) * 1e6),
        "ratio": {name: round(statistics.median(ratios(pairs)), 4) for name, pairs in times.items()},
        "ratio_95": {name: between(ratios(pairs)) for name, pairs in times.items()},
        "parts_us_a_step": {name: round(sum(spent) / steps * 1e6) for name, spent in parts.items()},
        "parts_us_a_call": {name: round(statistics.median(spent) * 1e6) for name, spent in parts.items()},
        "threads_us_a_step": {name: round(seconds / steps * 1e6) for name, seconds in others.items()},
        "slots": decoders[0].kv.manager.state.slots,
        "plans_applied": moved[1].plans_applied,
        "entries_applied": moved[1].entries_applied,
        "demand_pages": [m.demand_pages for m in moved],
    }


def ratios(pairs: list[list[float]]) -> list[float]:
    """Attached over alone, of each pair of steps."""
    return [attached / alone for alone, attached in zip(*pairs, strict=True)]


def between(values: list[float]) -> tuple[float, float]:
    """Where the median of many such pairs lies with a probability of 95%, by the ranks of these."""
    n = len(values)
    rank = max(0, int(n / 2 - 0.98 * math.sqrt(n)))
    return round(sorted(values)[rank], 4), round(sorted(values)[n - 1 - rank], 4)


def be_peers(endpoint: str) -> None:
    """An observer, and a controller that answers every step with a plan; until terminated."""
    observer, controller = ZmqClient(endpoint), ZmqClient(endpoint)
    controller.send(write(Attach(peer="controller", pid=os.getpid()), 1))
    observer.send(write(Attach(peer="observer", pid=os.getpid(), role="observer"), 1))
    planner, number = Planner(), 1
    while True:
        while observer.receive(0) is not None:
            pass
        frames = controller.receive(0.1)
        message = read(frames)[1] if frames else None
        if isinstance(message, Hello):
            planner.geometry = message.geometry
            answer: Any = SnapshotRequest()
        elif isinstance(message, Snapshot):
            planner.learn(message)
            continue
        elif isinstance(message, Step) and planner.resident.size:
            answer = planner.plan(message, number)
        else:
            continue
        number += 1
        controller.send(write(answer, number))


class Planner:
    """Values every resident page as `score-ema` would, so that both decoders keep about the same pages."""

    def __init__(self) -> None:
        self.geometry: Geometry | None = None
        self.resident = np.zeros(0, bool)
        self.average = np.zeros(0, "<f4")
        self.groups: dict[int, list[int]] = {}

    def learn(self, snapshot: Snapshot) -> None:
        """Start from the whole state."""
        assert self.geometry is not None
        self.resident = np.zeros(self.geometry.groups * self.geometry.lanes, bool)
        self.resident[snapshot.resident] = True
        self.average = np.zeros(self.resident.size, "<f4")
        for i, sequence in enumerate(snapshot.sequences):
            self.groups[sequence] = snapshot.groups[snapshot.offsets[i] : snapshot.offsets[i + 1]].tolist()

    def plan(self, step: Step, number: int) -> Plan:
        """Values of all resident pages; generations are 0, as nobody ends."""
        assert self.geometry is not None
        self.resident[step.loaded] = True
        self.resident[step.evicted] = False
        for sequence, group in zip(step.new_sequence.tolist(), step.new_group.tolist(), strict=True):
            if group not in self.groups[sequence]:
                self.groups[sequence].append(group)
        lanes = self.geometry.lanes
        self.average *= DECAY
        for i, sequence in enumerate(step.sequences):
            rows = slice(i * lanes, (i + 1) * lanes)
            pages = np.array(self.groups[sequence])[step.candidates[rows]] * lanes + np.arange(lanes)[:, None]
            there = step.candidates[rows] >= 0
            self.average[pages[there]] += (1 - DECAY) * step.scores[rows][there]
        pages = np.flatnonzero(self.resident)[: self.geometry.slots].astype("<i4")
        empty = np.empty(0, "<i4")
        return Plan(
            number=number, epoch=step.epoch, deadline=step.epoch + 4, source="heuristic", pages=pages,
            generations=np.zeros(len(pages), "<u4"), values=(255 - self.average[pages]) / np.float32(8),
            prefetch=empty, prefetch_generations=empty.astype("<u4"),
        )  # fmt: skip


if __name__ == "__main__":
    main()
