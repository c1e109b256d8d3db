"""The pool that the daemon's curve calls enough, against a sweep of fixed ones, on a real decode behind a slow link.

    python tests/bench/bench_hot_slots_real.py [--sizes 150 250 350 500 700 1000] [--pool 1400] [--seconds 12]
        [--context 1536] [--sequences 2] [--layers 4] [--selected 16] [--link-gbps 0.06]

The demo's model, cut to its first layers, decodes with so many hot slots; then with all of the pool while `hotset
daemon` watches and reports `knee_slots`, the least that should make a step longer by 1% at most; then with all, with so
many, and with three quarters of them, without it. Prints one JSON object an arm, of the second half of its time: tokens
a second, the stall and misses of a token, and the median step.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV
from hotset.runtime.huggingface import load_model
from hotset.runtime.steering import LinkSteering

MOST_TOKENS = 3000
"""of a sequence in one arm"""


def main() -> None:
    """Sweep, watch, and do as was said."""
    import torch

    told = arguments()
    torch.set_num_threads(1)
    os.environ["HOTSET_RUNTIME_DIR"] = tempfile.mkdtemp(prefix="hotset-bench-")
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    model.model.layers = model.model.layers[: told.layers]
    model.config.num_hidden_layers = told.layers
    texts = samples.split_text(samples.long_text(), told.sequences)
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    kept = [PromptKV() for _ in prompts]
    config = RuntimeConfig.checked(
        max_tokens=sum(len(prompt) + MOST_TOKENS for prompt in prompts), max_sequences=len(prompts),
        max_running=len(prompts), selected=told.selected, hbm_pages=told.pool, link_gbps=told.link_gbps,
    )  # fmt: skip
    for slots in told.sizes:
        arm({"slots": slots}, Decoder(model, None, config), prompts, kept, told.seconds, slots)
    logs = Path(tempfile.mkdtemp(prefix="hotset-bench-"))
    decoder = Decoder(model, None, config)
    daemon = watch(decoder, logs)
    arm({"watched": True}, decoder, prompts, kept, told.seconds, None)
    daemon.send_signal(signal.SIGTERM)
    daemon.wait()
    (status,) = logs.rglob("status.json")
    knee = json.loads(status.read_text(encoding="utf-8"))["advice"]["knee_slots"]
    for name, slots in (("all", None), ("knee", knee), ("three_quarters_of_it", knee * 3 // 4)):
        arm({name: slots}, Decoder(model, None, config), prompts, kept, told.seconds, slots)


def arguments() -> argparse.Namespace:
    """What the command says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[150, 250, 350, 500, 700, 1000])
    parser.add_argument("--pool", type=int, default=1400, help="pages of hot slots and tails")
    parser.add_argument("--seconds", type=float, default=12.0, help="of an arm")
    parser.add_argument("--context", type=int, default=1536)
    parser.add_argument("--sequences", type=int, default=2)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--selected", type=int, default=16)
    parser.add_argument("--link-gbps", type=float, default=0.06)
    return parser.parse_args()


def arm(
    title: dict[str, Any], decoder: Decoder, prompts: list[list[int]], kept: list[PromptKV], seconds: float,
    slots: int | None,
) -> None:  # fmt: skip
    """Decode for `seconds` with a hot set of `slots`, or with all there are; prints the figures."""
    decoder.scheduler.advise(Advice(number=1, hot_slots=slots))
    for prompt, kv in zip(prompts, kept, strict=True):
        decoder.open(
            prompt, max_new_tokens=MOST_TOKENS, keep=None if kv.chunks else kv, given=kv if kv.chunks else None
        )
    half, begun = [], time.monotonic()
    while (now := time.monotonic()) < begun + seconds:
        report = decoder.step()
        if now > begun + seconds / 2:
            half.append(report)
    decoder.close()
    tokens = sum(r.sequences for r in half)
    found = {
        "tokens_a_second": round(tokens / sum(r.seconds for r in half), 2),
        "stall_ms_a_token": round(1e3 * sum(r.stall_seconds for r in half) / tokens, 2),
        "misses_a_token": round(sum(r.demand_misses for r in half) / tokens, 1),
        "step_ms": round(1e3 * statistics.median(r.seconds for r in half), 1),
    }
    print(json.dumps({**title, **found}), flush=True)


def watch(decoder: Decoder, logs: Path) -> subprocess.Popen[bytes]:
    """`hotset daemon`, once it holds the lease; it neither plans nor advises."""
    decoder.listen()
    assert isinstance(decoder.steering, LinkSteering)
    options = ["--pid", str(os.getpid()), "--log-dir", str(logs), "--plan-every", "0", "--no-record"]
    command = [sys.executable, "-m", "hotset.ops", "daemon", *options, "--no-advice-enabled"]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while not decoder.steering.link.counters.lease_changes:
        if child.poll() is not None:
            raise SystemExit("the daemon has ended; its message is above")
        time.sleep(0.05)
    return child


if __name__ == "__main__":
    main()
