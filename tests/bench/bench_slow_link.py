"""A real decode behind an artificially slow link: tokens a second by how many sequences run at once.

    python tests/bench/bench_slow_link.py [--link-gbps 0.4] [--prompts 6] [--context 1024] [--tokens 24]
        [--hbm-fraction 0.2] [--concurrency 1 2 3 4 6]

The demo's model decodes the same prompts once for each concurrency, which is advised before the first step; the pool
and the link stay the same. The prompts are computed once and given to each run, so that only decoding is timed.
Prints one JSON object a run; the last line says whether all tokens were the same.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV
from hotset.runtime.huggingface import load_model


def main() -> None:
    """Measure every concurrency asked for."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--link-gbps", type=float, default=0.4)
    parser.add_argument("--latency-us", type=float, default=20.0)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--hbm-fraction", type=float, default=0.2)
    parser.add_argument("--selected", type=int, default=16)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 2, 3, 4, 6])
    parser.add_argument("--threads", type=int, default=1)
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    texts = samples.split_text(samples.long_text(), told.prompts)
    prompts = [encode(tokenizer, text, told.context) for text in texts]
    kept = prefill(model, prompts, told)
    found = []
    for concurrency in told.concurrency:
        tokens, figures = run(model, prompts, kept, concurrency, told)
        found.append(tokens)
        print(json.dumps(figures), flush=True)
    print(json.dumps({"tokens_identical": all(tokens == found[0] for tokens in found)}))


def config_of(prompts: list[list[int]], told: argparse.Namespace, **options: Any) -> RuntimeConfig:
    """The same pool in every run."""
    total = sum(map(len, prompts)) + told.tokens * len(prompts)
    return RuntimeConfig.checked(
        max_tokens=total, max_sequences=len(prompts), selected=told.selected,
        **{"hbm_fraction": told.hbm_fraction, **options},
    )  # fmt: skip


def prefill(model: Any, prompts: list[list[int]], told: argparse.Namespace) -> list[PromptKV]:
    """Compute every prompt once."""
    decoder, kept = Decoder(model, None, config_of(prompts, told, hbm_fraction=1.0)), []
    for prompt in prompts:
        kept.append(PromptKV())
        decoder.open(prompt, max_new_tokens=1, keep=kept[-1])
    decoder.close()
    return kept


def run(
    model: Any, prompts: list[list[int]], kept: list[PromptKV], concurrency: int, told: argparse.Namespace
) -> tuple[list[list[int]], dict[str, float]]:
    """All prompts to their ends, with `concurrency` advised; (tokens, figures)."""
    link = {"link_gbps": told.link_gbps, "link_latency_us": told.latency_us}
    decoder = Decoder(model, None, config_of(prompts, told, **link))
    decoder.scheduler.advise(Advice(number=1, concurrency=concurrency))
    requests = [decoder.submit(p, max_new_tokens=told.tokens, given=k) for p, k in zip(prompts, kept, strict=True)]
    reports = list(decoder.run())
    decoder.close()
    seconds = sum(r.seconds for r in reports)
    figures = {
        "concurrency": concurrency,
        "tokens_a_second": round(sum(r.sequences for r in reports) / seconds, 2),
        "stall_share": round(sum(r.stall_seconds for r in reports) / seconds, 3),
        "miss_ratio": round(sum(r.demand_misses for r in reports) / sum(r.accesses for r in reports), 4),
        "moved_mb": round(sum(r.moved_bytes for r in reports) / 1e6, 1),
        "steps": len(reports),
        "step_ms": round(1e3 * seconds / len(reports), 1),
        "slots": decoder.kv.manager.state.slots,
    }
    return [r.generation.tokens for r in requests if r.generation is not None], figures


if __name__ == "__main__":
    main()
