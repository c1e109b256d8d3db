"""A real decode behind an artificially slow link: the daemon's advice on concurrency against fixed concurrencies.

    python tests/bench/bench_concurrency_real.py [--alone 2 3 4 5 6 8 12] [--beside 5 6 7 8] [--rounds 3] [--most 12]
        [--requests 48] [--tokens 64] [--context 640] [--layers 4] [--link-gbps 0.03] [--lane-slots 60] [--selected 8]
        [--threads 1] [--plan-every 1] [--equal-lengths]

The demo's model, cut to its first layers so that a step takes milliseconds, answers the same requests in every run:

    alone     at a fixed concurrency, and nobody listens
    beside    at a fixed concurrency, beside `hotset daemon`, which does all it does but advise
    advised   beside the same daemon, which advises, and begins with as many at once as can

Each round runs every arm once, each in a process of its own, and all of them in turns of SLICE steps: the clock of a
shared machine drifts from minute to minute by more than what is to be seen, so it has to be the same minute. Only
steps count, not the time between turns. What `beside`
lacks of `alone` is what a daemon costs here, in processor time or by its plans; what `advised` lacks of `beside` is
what the search costs. Answers are of half to all of --tokens, at random; of one length, what began together ends
together, and a fixed concurrency has no last requests that run alone. The prompts are computed once and given to each
run, so that only decoding is timed. Prints one JSON object a run: tokens a second of all steps and of the second half,
and what the decode thread, the other threads of its process and the daemon took of the processors, in milliseconds a
step.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV, StepReport
from hotset.runtime.huggingface import load_model
from hotset.runtime.steering import LinkSteering

SLICE = 8
"""steps of a turn"""
Arm = tuple[str, int]
"""How it is run, and the fixed concurrency, 0 if advised."""
Round = dict[Arm, float]
"""Tokens a second of each arm."""


def main() -> None:
    """Measure every fixed concurrency, alone and beside a daemon, and the advised one."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--alone", type=int, nargs="*", default=[2, 3, 4, 5, 6, 8, 12])
    parser.add_argument("--beside", type=int, nargs="*", default=[5, 6, 7, 8])
    parser.add_argument("--rounds", type=int, default=3, help="runs of each arm")
    parser.add_argument("--most", type=int, default=12)
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--context", type=int, default=640)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--page-size", type=int, default=16)
    parser.add_argument("--selected", type=int, default=8)
    parser.add_argument("--lane-slots", type=int, default=60, help="of all sequences together")
    parser.add_argument("--link-gbps", type=float, default=0.03)
    parser.add_argument("--latency-us", type=float, default=100.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plan-every", type=int, default=1, help="0: no plans, so that every run has the same policy")
    parser.add_argument("--equal-lengths", action="store_true")
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    model.model.layers = model.model.layers[: told.layers]
    model.config.num_hidden_layers = told.layers
    told.lanes = told.layers * model.config.num_key_value_heads
    texts = samples.split_text(samples.long_text(), told.requests)
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    kept = prefill(model, prompts, told)
    arms = [("alone", c) for c in told.alone] + [("beside", c) for c in told.beside] + [("advised", 0)]
    rounds: list[Round] = []
    for number in range(told.rounds):
        rounds.append({})
        for (how, concurrency), (goodput, figures) in in_turns(model, prompts, kept, arms, told).items():
            rounds[-1][how, concurrency] = goodput
            print(json.dumps({how: concurrency or True, "round": number, **figures}), flush=True)
    print(json.dumps(verdict(rounds)))


class Turns:
    """Lets processes go on one after the other, each until it passes; who is done passes on until all are."""

    def __init__(self, count: int) -> None:
        fork = multiprocessing.get_context("fork")
        self._mine = [fork.Semaphore(int(i == 0)) for i in range(count)]
        self._done = fork.Value("i", 0)

    def begin(self, who: int) -> None:
        """Wait for one's turn."""
        self._mine[who].acquire()

    def pass_on(self, who: int) -> None:
        """It is the next one's turn; returns when it is one's own again."""
        self._mine[(who + 1) % len(self._mine)].release()
        self._mine[who].acquire()

    def end(self, who: int) -> None:
        """Be done, and return once all are."""
        # Only whose turn it is counts.
        self._done.value += 1
        while self._done.value < len(self._mine):
            self.pass_on(who)
        self._mine[(who + 1) % len(self._mine)].release()


def in_turns(
    model: Any, prompts: list[list[int]], kept: list[PromptKV], arms: list[Arm], told: argparse.Namespace
) -> dict[Arm, tuple[float, dict[str, Any]]]:
    """Run all arms at once, in forked processes that share the model and the prompts' K and V."""
    fork = multiprocessing.get_context("fork")
    turns, results = Turns(len(arms)), fork.SimpleQueue()

    def arm(who: int) -> None:
        os.environ["HOTSET_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="hotset-bench-")
        turns.begin(who)
        try:
            results.put((arms[who], run(model, prompts, kept, *arms[who], told, lambda: turns.pass_on(who))))
        except BaseException:
            results.put((arms[who], None))
            raise
        finally:
            turns.end(who)

    children = [fork.Process(target=arm, args=(who,)) for who in range(len(arms))]
    for child in children:
        child.start()
    done = dict(results.get() for _ in arms)
    for child in children:
        child.join()
    if failed := [arm for arm, result in done.items() if result is None]:
        raise SystemExit(f"{failed} failed; what went wrong is above")
    return {arm: done[arm] for arm in arms}


def verdict(rounds: list[Round]) -> dict[str, Any]:
    """The best of each sweep by its median, and how the advised run of each round did against it."""
    told: dict[str, Any] = {}
    for how in ("alone", "beside"):
        rates = {arm: statistics.median(r[arm] for r in rounds) for arm in rounds[0] if arm[0] == how}
        if rates:
            best = max(rates, key=rates.__getitem__)
            against = [round(r["advised", 0] / r[best] - 1, 4) for r in rounds]
            told |= {
                f"{how}_medians": {concurrency: round(rate, 1) for (_, concurrency), rate in rates.items()},
                f"best_{how}": best[1],
                f"advised_against_{how}": statistics.median(against),
                f"rounds_against_{how}": against,
            }
    return told


def config_of(prompts: list[list[int]], told: argparse.Namespace, **options: Any) -> RuntimeConfig:
    """The same pool in every run."""
    total = sum(len(prompt) + told.tokens for prompt in prompts)
    return RuntimeConfig.checked(
        max_tokens=total, max_sequences=len(prompts), selected=told.selected, page_size=told.page_size,
        **{"hbm_pages": told.lane_slots * told.lanes, "max_running": told.most, **options},
    )  # fmt: skip


def prefill(model: Any, prompts: list[list[int]], told: argparse.Namespace) -> list[PromptKV]:
    """Compute every prompt once."""
    decoder, kept = Decoder(model, None, config_of(prompts, told, hbm_pages=None, hbm_fraction=1.0)), []
    for prompt in prompts:
        kept.append(PromptKV())
        decoder.open(prompt, max_new_tokens=1, keep=kept[-1])
    decoder.close()
    return kept


def run(
    model: Any,
    prompts: list[list[int]],
    kept: list[PromptKV],
    how: str,
    fixed: int,
    told: argparse.Namespace,
    pass_on: Callable[[], None],
) -> tuple[float, dict[str, Any]]:
    """All requests to their ends, `fixed` at once, or as many as a daemon advises; (tokens a second, figures)."""
    link = {"link_gbps": told.link_gbps, "link_latency_us": told.latency_us}
    decoder = Decoder(model, None, config_of(prompts, told, **link))
    daemon = None if how == "alone" else attach(decoder, told.plan_every, advise=how == "advised")
    advised = note_advice(decoder) if how == "advised" else []
    if fixed:
        decoder.scheduler.advise(Advice(number=1, concurrency=fixed))
    rng = random.Random(0)
    for prompt, given in zip(prompts, kept, strict=True):
        tokens = told.tokens if told.equal_lengths else rng.randint(told.tokens // 2, told.tokens)
        decoder.submit(prompt, max_new_tokens=tokens, given=given)
    before = spent(daemon)
    reports = []
    for report in decoder.run():
        reports.append(report)
        if len(reports) % SLICE == 0:
            pass_on()
    used = {f"{who}_ms": round(1e3 * (now - before[who]) / len(reports), 2) for who, now in spent(daemon).items()}
    decoder.close()
    if daemon is not None:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    return rate(reports), {**summary(reports), **used, **({"advice": advised} if advised else {})}


def spent(daemon: subprocess.Popen[bytes] | None) -> dict[str, float]:
    """Seconds of processor time so far: this thread, the others of this process, the daemon."""
    thread = time.thread_time()
    told = {"decode": thread, "others": time.process_time() - thread}
    if daemon is not None:
        fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
        told["daemon"] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return told


def summary(reports: Sequence[StepReport]) -> dict[str, Any]:
    """What the steps say."""
    seconds, tokens = sum(r.seconds for r in reports), sum(r.sequences for r in reports)
    return {
        "tokens_a_second": round(rate(reports), 2),
        "second_half": round(rate(reports[len(reports) // 2 :]), 2),
        "stall_share": round(sum(r.stall_seconds for r in reports) / seconds, 3),
        "misses_a_token": round(sum(r.demand_misses for r in reports) / tokens, 1),
        "running": round(tokens / len(reports), 2),
        "steps": len(reports),
        "seconds": round(seconds, 1),
    }


def rate(reports: Sequence[StepReport]) -> float:
    """Tokens a second."""
    return sum(r.sequences for r in reports) / sum(r.seconds for r in reports)


def attach(decoder: Decoder, plan_every: int, *, advise: bool) -> subprocess.Popen[bytes]:
    """`hotset daemon`, once it holds the lease."""
    decoder.listen()
    assert isinstance(decoder.steering, LinkSteering)
    logs = Path(tempfile.mkdtemp(prefix="hotset-bench-"))
    options = ["--pid", str(os.getpid()), "--log-dir", str(logs), "--plan-every", str(plan_every)]
    options.append("--advice-enabled" if advise else "--no-advice-enabled")
    child = subprocess.Popen([sys.executable, "-m", "hotset.ops", "daemon", *options], stdout=subprocess.DEVNULL)
    while not decoder.steering.link.counters.lease_changes:
        if child.poll() is not None:
            raise SystemExit("the daemon has ended; its message is above")
        time.sleep(0.05)
    return child


def note_advice(decoder: Decoder) -> list[tuple[int, int | None, int | None]]:
    """(step, concurrency, hot_slots) of each advice that is followed."""
    noted: list[tuple[int, int | None, int | None]] = []
    steering: Any = decoder.steering
    follow = steering._on_advice

    def note(advice: Advice) -> str:
        noted.append((decoder.epoch, advice.concurrency, advice.hot_slots))
        return str(follow(advice))

    steering._on_advice = note
    return noted


if __name__ == "__main__":
    main()
