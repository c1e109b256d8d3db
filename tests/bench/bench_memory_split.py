"""Two real decode processes with different working sets under one budget of hot memory: who gets how much of it.

    python tests/bench/bench_memory_split.py [--shares 0.1 0.2 0.3 0.4 0.5] [--seconds 20] [--budget 900]
        [--narrow 8] [--wide 32] [--context 1536] [--sequences 2] [--layers 4] [--link-gbps 0.06] [--repeats 1]

Both decode the demo's model, cut to its first layers, each behind a slow link of its own; they differ in the pages that
a lane selects. Memory for hot slots and tails together is `--budget` pages. Arms, each with both processes at once:

    fixed     the narrow one has this share of the memory from the start, the wide one the rest; no daemon
    daemon    one `hotset daemon` with `advice.device_bytes` steers both, which begin with half each as it attaches
    as said   the split that the daemon came to, fixed from the start, without it: what the split alone is worth

Prints one JSON object an arm: tokens a second of both together, in all of the time and in its second half, and each
process's stall, misses and slots in that half. The first tokens must be the same in all arms, or the bench fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from typing import Any

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV, StepReport
from hotset.runtime.huggingface import load_model
from hotset.runtime.steering import LinkSteering

NAMES = ("narrow", "wide")
MOST_TOKENS = 3000
"""of a sequence in one arm"""
COMPARED = 50
"""of them, between arms"""


def main() -> None:
    """Measure every arm."""
    told = arguments()
    os.environ["HOTSET_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="hotset-bench-")
    spawn = multiprocessing.get_context("spawn")
    barrier, pipes = spawn.Barrier(len(NAMES)), [spawn.Pipe() for _ in NAMES]
    for name, (_, theirs) in zip(NAMES, pipes, strict=True):
        spawn.Process(target=child, args=(name, told, barrier, theirs), daemon=True).start()
        theirs.close()  # so that a process that dies is not waited for
    ends = [mine for mine, _ in pipes]
    sizes = [end.recv() for end in ends]
    found = {share: arm(ends, told, {"fixed": share}, share, sizes) for share in told.shares}
    best = max(found, key=lambda share: found[share]["second_half"])
    steered = arm(ends, told, {"daemon": True}, None, sizes)
    share = steered["share"]
    alone = arm(ends, told, {"as_said": share}, share, sizes)
    for end in ends:
        end.send(None)
    halves = {name: run["second_half"] for name, run in (("daemon", steered), ("as_said", alone))}
    against = {name: round(half / found[best]["second_half"] - 1, 4) for name, half in halves.items()}
    equal = {"equal_against_best": round(found[0.5]["second_half"] / found[best]["second_half"] - 1, 4)}
    print(json.dumps({"best_fixed": best, "against_best": against, **(equal if 0.5 in found else {})}))


def arguments() -> argparse.Namespace:
    """What the command says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shares", type=float, nargs="+", default=[0.1, 0.2, 0.3, 0.4, 0.5])
    parser.add_argument("--seconds", type=float, default=20.0, help="of an arm")
    parser.add_argument("--budget", type=int, default=900, help="pages of hot slots and tails of both together")
    parser.add_argument("--narrow", type=int, default=8, help="pages that a lane of the one selects")
    parser.add_argument("--wide", type=int, default=32, help="and of the other")
    parser.add_argument("--context", type=int, default=1536)
    parser.add_argument("--sequences", type=int, default=2, help="of each process")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--link-gbps", type=float, default=0.06)
    parser.add_argument("--repeats", type=int, default=1, help="of an arm; the median counts")
    return parser.parse_args()


def arm(
    ends: list[Connection], told: argparse.Namespace, title: dict[str, Any], share: float | None, sizes: list[int]
) -> dict[str, Any]:
    """Let both processes run, with a fixed share of the narrow one or beside a daemon; prints and returns figures."""
    runs = [once(ends, told, share, sizes[0]) for _ in range(told.repeats)]
    run = sorted(runs, key=lambda found: float(found["second_half"]))[len(runs) // 2]
    print(json.dumps({**title, **run}), flush=True)
    return run


def once(ends: list[Connection], told: argparse.Namespace, share: float | None, page_bytes: int) -> dict[str, Any]:
    """One run of an arm."""
    daemon = None if share is not None else start_daemon(told.budget * page_bytes)
    shares = (0.5, 0.5) if share is None else (share, 1 - share)
    for end, mine in zip(ends, shares, strict=True):
        end.send((mine, daemon is not None))
    figures = [end.recv() for end in ends]
    if daemon is not None:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    for name, found in zip(NAMES, figures, strict=True):
        before = _tokens.setdefault(name, found["tokens"])
        if found.pop("tokens") != before:
            raise SystemExit(f"{name} gave other tokens than in the arm before")
    memory = [found["slots"] + found["tails"] for found in figures]
    return {
        "tokens_a_second": round(sum(f.pop("rate") for f in figures), 2),
        "second_half": round(sum(f["rate_then"] for f in figures), 2),
        "share": round(memory[0] / sum(memory), 4),
        **dict(zip(NAMES, figures, strict=True)),
    }


_tokens: dict[str, str] = {}
"""of each process, as of the first arm"""


def start_daemon(device_bytes: int) -> subprocess.Popen[bytes]:
    """Splits the memory; it neither plans nor says how many run, so that arms differ by the split alone."""
    options = ["--log-dir", tempfile.mkdtemp(prefix="hotset-bench-"), "--plan-every", "0", "--no-record"]
    advice = ["--advice-device-bytes", str(device_bytes), "--no-advice-concurrency", "--no-advice-pacing"]
    command = [sys.executable, "-m", "hotset.ops", "daemon", *options, *advice, "--no-advice-groups"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def child(name: str, told: argparse.Namespace, barrier: Barrier, pipe: Connection) -> None:
    """One decode process: computes its prompts once, then decodes them anew for each arm."""
    import torch

    torch.set_num_threads(1)
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    model.model.layers = model.model.layers[: told.layers]
    model.config.num_hidden_layers = told.layers
    texts = samples.split_text(samples.long_text(), told.sequences * len(NAMES))[NAMES.index(name) :: len(NAMES)]
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    config = RuntimeConfig.checked(
        max_tokens=sum(len(prompt) + MOST_TOKENS for prompt in prompts), max_sequences=len(prompts),
        max_running=len(prompts), selected=getattr(told, name), hbm_pages=told.budget, link_gbps=told.link_gbps,
    )  # fmt: skip
    decoder, kept = Decoder(model, None, config), [PromptKV() for _ in prompts]
    pipe.send(decoder.kv.manager.page_bytes)
    decoder.close()
    while (asked := pipe.recv()) is not None:
        share, steered = asked
        decoder = Decoder(model, None, config)
        pipe.send(decode(decoder, prompts, kept, told, barrier, share, steered))
        decoder.close()


def decode(
    decoder: Decoder, prompts: list[list[int]], kept: list[PromptKV], told: argparse.Namespace, barrier: Barrier,
    share: float, steered: bool,
) -> dict[str, Any]:  # fmt: skip
    """`told.seconds` beside the other process."""
    tails = len(prompts) * decoder.kv.lanes
    decoder.scheduler.advise(Advice(number=1, hot_slots=round(share * told.budget) - tails))
    open_ = [
        decoder.open(
            prompt, max_new_tokens=MOST_TOKENS, keep=None if kv.chunks else kv, given=kv if kv.chunks else None
        )
        for prompt, kv in zip(prompts, kept, strict=True)
    ]
    if steered:
        decoder.listen()
        wait_for_lease(decoder)
    barrier.wait()
    reports, half, begun = [], [], time.monotonic()
    while (now := time.monotonic()) < begun + told.seconds:
        reports.append(decoder.step())
        if now > begun + told.seconds / 2:
            half.append(reports[-1])
    slots, tokens = decoder.kv.manager.hot_slots(), [g.tokens[:COMPARED] for g in open_]
    barrier.wait()
    return {
        "rate": rate(reports), "rate_then": round(rate(half), 2), "slots": slots, "tails": tails,
        "stall_share": round(sum(r.stall_seconds for r in half) / sum(r.seconds for r in half), 3),
        "misses_a_token": round(sum(r.demand_misses for r in half) / sum(r.sequences for r in half), 1),
        "step_ms": round(1e3 * statistics.median(r.seconds for r in half), 1),
        "tokens": hashlib.sha256(json.dumps(tokens).encode()).hexdigest(),
    }  # fmt: skip


def wait_for_lease(decoder: Decoder) -> None:
    """Until the daemon steers us."""
    assert isinstance(decoder.steering, LinkSteering)
    until = time.monotonic() + 60
    while not decoder.steering.link.counters.lease_changes:
        if time.monotonic() > until:
            raise SystemExit("no daemon came; its message is above")
        time.sleep(0.05)


def rate(reports: list[StepReport]) -> float:
    """Tokens a second."""
    return sum(r.sequences for r in reports) / sum(r.seconds for r in reports)


if __name__ == "__main__":
    main()
