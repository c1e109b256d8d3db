"""A real decode behind an artificially slow link: the daemon's advice on concurrency against fixed concurrencies.

    python tests/bench/bench_concurrency_real.py [--fixed 2 3 4 5 6 8 12] [--most 12] [--requests 48] [--tokens 64]
        [--context 640] [--layers 4] [--link-gbps 0.03] [--lane-slots 60] [--selected 8] [--threads 1]

The demo's model, cut to its first layers so that a step takes milliseconds, answers the same requests once for each
fixed concurrency, then with `hotset daemon` in another process, which begins with as many at
once as can. The prompts are computed once and given to each run, so that only decoding is timed. Prints one JSON object
a run: tokens a second of all steps and of the second half, and the processor time of the decode thread a token.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV, StepReport
from hotset.runtime.huggingface import load_model
from hotset.runtime.steering import LinkSteering


def main() -> None:
    """Measure every fixed concurrency, and the advised one."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fixed", type=int, nargs="*", default=[2, 3, 4, 5, 6, 8, 12])
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
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    os.environ["HOTSET_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="hotset-bench-")
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    model.model.layers = model.model.layers[: told.layers]
    model.config.num_hidden_layers = told.layers
    told.lanes = told.layers * model.config.num_key_value_heads
    texts = samples.split_text(samples.long_text(), told.requests)
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    kept = prefill(model, prompts, told)
    found = {}
    for concurrency in told.fixed:
        found[concurrency], figures = run(model, prompts, kept, concurrency, told)
        print(json.dumps({"fixed": concurrency, **figures}), flush=True)
    advised, figures = run(model, prompts, kept, None, told)
    print(json.dumps({"advised": True, **figures}), flush=True)
    if found:
        best = max(found, key=found.__getitem__)
        print(json.dumps({"best_fixed": best, "advised_against_best": round(advised / found[best] - 1, 4)}))


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
    model: Any, prompts: list[list[int]], kept: list[PromptKV], fixed: int | None, told: argparse.Namespace
) -> tuple[float, dict[str, Any]]:
    """All requests to their ends, `fixed` at once, or as many as a daemon advises; (tokens a second, figures)."""
    link = {"link_gbps": told.link_gbps, "link_latency_us": told.latency_us}
    decoder = Decoder(model, None, config_of(prompts, told, **link))
    daemon, advised = None, []
    if fixed is None:
        daemon = attach(decoder)
        advised = note_advice(decoder)
    else:
        decoder.scheduler.advise(Advice(number=1, concurrency=fixed))
    for prompt, given in zip(prompts, kept, strict=True):
        decoder.submit(prompt, max_new_tokens=told.tokens, given=given)
    used = time.thread_time()
    reports = list(decoder.run())
    used = time.thread_time() - used
    slots = decoder.kv.manager.state.slots
    decoder.close()
    if daemon is not None:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    figures = {**summary(reports), "cpu_ms_a_token": round(1e3 * used / sum(r.sequences for r in reports), 2)}
    return rate(reports), {**figures, "slots": slots, **({"advice": advised} if daemon is not None else {})}


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


def attach(decoder: Decoder) -> subprocess.Popen[bytes]:
    """`hotset daemon`, once it holds the lease; it never plans, so that every run has the same policy."""
    decoder.listen()
    assert isinstance(decoder.steering, LinkSteering)
    logs = Path(tempfile.mkdtemp(prefix="hotset-bench-"))
    options = ["--pid", str(os.getpid()), "--log-dir", str(logs), "--plan-every", "0"]
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
