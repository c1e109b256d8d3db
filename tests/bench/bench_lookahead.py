"""Lookahead in a real decode: recall of its ranks, what it costs, and built-in, bare and learned behind a slow link.

    python tests/bench/bench_lookahead.py [--context 4096] [--tokens 48] [--selected 32] [--link-gbps 0.2]
        [--train-prompts 2] [--batch 1] [--ways built-in bare learned] [--folder runs/lookahead] [--again]

The demo's model decodes `train-prompts` prompts with ranks logged; `hotset train` makes a model of that log; then one
more prompt, which the model has not seen, is decoded with each way to prefetch, in turn, `--rounds` times over. The
pool holds B = 2k pages a lane; the first `--settle` steps are not counted. Prompts are computed once and kept in the
folder, so that a second run begins at once. Prints one JSON object a line; tokens of all runs are compared.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hotset.ops import samples
from hotset.ops.decoding import encode
from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import TraceWriter
from hotset.protos.forest import sha256
from hotset.protos.messages import AccessFlag, Lookahead, Model
from hotset.protos.trace import TraceMeta
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV, StepReport
from hotset.runtime.huggingface import load_model
from hotset.runtime.sampling import Sampling
from hotset.training.options import TrainOptions
from hotset.training.train import train

SAMPLED = [None, *(Sampling(temperature=0.8, seed=seed) for seed in range(1, 64))]
"""the first sequence of a batch is greedy; the others go other ways from the same prompt"""
WAYS: dict[str, dict[str, Any]] = {
    "built-in": {},
    "ranks only": {"lookahead": 1, "lookahead_prefetch": "off"},
    "no model": {"lookahead": 1},
    "bare": {"lookahead": 1, "lookahead_prefetch": "bare"},
    "learned": {"lookahead": 1},
    "learned 0.25": {"lookahead": 1},
    "learned 0.1": {"lookahead": 1},
}
"""Options of the runtime; a number is the least probability that a daemon asks for, where it is not silent."""


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--selected", type=int, default=32)
    parser.add_argument("--link-gbps", type=float, default=0.2)
    parser.add_argument("--latency-us", type=float, default=20.0)
    parser.add_argument("--train-prompts", type=int, default=2)
    parser.add_argument("--train-tokens", type=int, default=96)
    parser.add_argument("--distance", type=int, default=1)
    parser.add_argument("--settle", type=int, default=8, help="steps that are not counted")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--again", action="store_true", help="with the model that a run before has left there")
    parser.add_argument("--batch", type=int, default=1, help="sequences of the same prompt")
    parser.add_argument("--folder", type=Path, default=Path("runs/lookahead"))
    told = parser.parse_args()
    torch.set_num_threads(told.threads)
    told.folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = load_model(samples.embedded_model(), torch.float32)
    texts = samples.split_text(samples.long_text(), told.train_prompts + 1)
    prompts = [encode(tokenizer, text + samples.QUESTION, told.context) for text in texts]
    kept = [prompt_kv(model, prompt, told, number) for number, prompt in enumerate(prompts)]
    trained = pushed(told.folder / "model" / "model") if told.again else learn(model, prompts[:-1], kept[:-1], told)
    judge(model, prompts[-1], kept[-1], trained, told)


def config_of(told: argparse.Namespace, model: Any, tokens: int, **options: Any) -> RuntimeConfig:
    """A pool of 2k pages a lane and the tails."""
    text = model.config
    lanes = text.num_hidden_layers * text.num_key_value_heads
    return RuntimeConfig.checked(
        max_tokens=told.batch * (told.context + tokens), max_sequences=told.batch, selected=told.selected,
        hbm_pages=told.batch * lanes * (2 * told.selected + 1), share_prefix=False, **options,
    )  # fmt: skip


def prompt_kv(model: Any, prompt: list[int], told: argparse.Namespace, number: int) -> PromptKV:
    """Computed once, then read from the folder."""
    path = told.folder / f"prompt-{told.context}-{number}-of-{told.train_prompts}.pt"
    if path.exists():
        chunks, logits = torch.load(path)
        return PromptKV(chunks, logits)
    kept, decoder = PromptKV(), Decoder(model, None, config_of(told, model, 1))
    decoder.open(prompt, max_new_tokens=1, keep=kept)
    decoder.close()
    torch.save((kept.chunks, kept.logits), path)
    return kept


def learn(model: Any, prompts: list[list[int]], kept: list[PromptKV], told: argparse.Namespace) -> Model:
    """Log the decodes of `prompts` with ranks, and train on them."""
    log = told.folder / f"log-{time.time_ns()}"
    options = {"lookahead": told.distance, "lookahead_prefetch": "off"}
    writer: TraceWriter | None = None
    recalls = []
    for number, (prompt, given) in enumerate(zip(prompts, kept, strict=True)):
        decoder = Decoder(model, None, config_of(told, model, told.train_tokens, **options))
        writer = writer or TraceWriter(log, meta_of(decoder), rows_per_part=1 << 18, lookahead=(told.distance,))
        decoder.open(prompt, max_new_tokens=told.train_tokens, given=given)
        recalls.append(recall(record(decoder, writer, number, told.distance), told.selected))
        decoder.close()
    assert writer is not None
    writer.close()
    shares = np.mean(recalls, axis=0).round(4).tolist()
    print(json.dumps({"new pages in the first": dict(zip(("k", "1.5k", "2k"), shares, strict=True))}), flush=True)
    options_of = TrainOptions(tracking_uri=f"sqlite:///{told.folder}/mlflow.db", threads=told.threads)
    done = train([log], told.folder / "model", options_of)
    return pushed(done.folder)


def pushed(folder: Path) -> Model:
    """The message that a daemon would push."""
    model = ReuseModel.load(folder)
    assert model.device is not None, "a log with ranks gives heads for the device"
    data = model.device.model.to_bytes()
    return Model(number=1, version=model.card.version, sha256=sha256(data), forest=np.frombuffer(data, "|u1"))


def meta_of(decoder: Decoder) -> TraceMeta:
    """What the log says of its origin."""
    shape = decoder.kv.geometry
    return TraceMeta(
        model=decoder.kv.shape.name, kind="decode", layers=shape.layers, kv_heads=shape.kv_heads,
        page_size=shape.page_size, selected=shape.selected, candidates=shape.candidates, page_bytes=shape.page_bytes,
    )  # fmt: skip


Logged = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]


def record(decoder: Decoder, writer: TraceWriter, sequence: int, distance: int) -> Iterator[Logged]:
    """Step to the end and log; candidates, selected and ranks [lanes, n] of every step."""
    for step, _ in enumerate(decoder.run()):
        done = decoder.last_pass
        assert done is not None
        assert done.ahead is not None
        pages, scores, flags = (part[0].flatten(0, 1).numpy() for part in (done.candidates, done.scores, done.flags))
        ranks = done.ahead.ranks[:, 0].flatten(0, 1).numpy()
        writer.append(
            sequence=sequence, step=step, epoch=step, length=int(done.batch.lengths[0]), pages=pages, scores=scores,
            flags=flags, lookahead={distance: ranks},
        )  # fmt: skip
        yield pages, (flags & AccessFlag.SELECTED) != 0, ranks


def recall(steps: Iterator[Logged], k: int) -> list[float]:
    """Of pages selected now and not at the step before: the share among the first k, 1.5k, 2k of the ranks."""
    before: list[set[int]] = []
    new, found = 0, np.zeros(3)
    for pages, selected, ranks in steps:
        now = [set(row[chosen].tolist()) for row, chosen in zip(pages, selected, strict=True)]
        for lane, old in enumerate(before):
            if ranks[lane, 0] < 0:
                continue
            fresh = now[lane] - old
            new += len(fresh)
            found += [len(fresh & set(ranks[lane, :first].tolist())) for first in (k, k * 3 // 2, 2 * k)]
        before = now
    return (found / max(1, new)).tolist()  # type: ignore[no-any-return]


def judge(model: Any, prompt: list[int], given: PromptKV, trained: Model, told: argparse.Namespace) -> None:
    """Every way, in turn; medians over rounds."""
    found: dict[str, list[dict[str, float]]] = {way: [] for way in told.ways}
    tokens = []
    for _ in range(told.rounds):
        for way in told.ways:
            out, figures = run(model, prompt, given, way, trained, told)
            tokens.append(out)
            found[way].append(figures)
    for way, rounds in found.items():
        medians = {name: round(float(np.median([r[name] for r in rounds])), 4) for name in rounds[0]}
        print(json.dumps({"way": way, **medians}), flush=True)
    print(json.dumps({"tokens_identical": all(out == tokens[0] for out in tokens)}))


def run(
    model: Any, prompt: list[int], given: PromptKV, way: str, trained: Model, told: argparse.Namespace
) -> tuple[list[list[int]], dict[str, float]]:
    """Decode `prompt` one way; tokens and figures."""
    options = {**WAYS[way], "link_gbps": told.link_gbps, "link_latency_us": told.latency_us}
    if "lookahead" in options:
        options["lookahead"] = told.distance
    decoder = Decoder(model, None, config_of(told, model, told.tokens, **options))
    if way.startswith("learned") and decoder.ahead is not None:
        refused = decoder.ahead.take_model(trained) or decoder.ahead.follow(steering(decoder, way), 0)
        assert not refused, refused
    opened = [
        decoder.open(prompt, max_new_tokens=told.tokens, given=given, sampling=SAMPLED[i]) for i in range(told.batch)
    ]
    for _ in range(told.settle):  # the pool is cold at first, and no way to prefetch knows anything yet
        decoder.step()
    before, start, process = dict(vars(decoder.kv.manager.moved)), time.thread_time(), time.process_time()
    reports = list(decoder.run())
    spent = {"thread_ms": time.thread_time() - start, "process_ms": time.process_time() - process}
    counts = ("demand_pages", "prefetch_pages", "prefetched_hits")
    moved = {name: getattr(decoder.kv.manager.moved, name) - before[name] for name in counts}
    decoder.close()
    return [g.tokens for g in opened], figures_of(reports, moved, spent)


def steering(decoder: Decoder, way: str) -> Lookahead:
    """The same least probability in every layer."""
    layers, (_, _, least) = decoder.kv.shape.layers, way.partition(" ")
    return Lookahead(
        number=1, steps=1 << 20, distance=np.full(layers, -1, "|i1"), pages=np.full(layers, -1, "<i4"),
        least=np.full(layers, float(least) if least else np.nan, "<f4"),
    )  # fmt: skip


def figures_of(reports: list[StepReport], moved: dict[str, Any], spent: dict[str, float]) -> dict[str, float]:
    """Of all steps together, by step or as shares."""
    steps, seconds = len(reports), sum(r.seconds for r in reports)
    return {
        "demand_misses": moved["demand_pages"],
        "prefetched": moved["prefetch_pages"],
        "prefetched_used": moved["prefetched_hits"],
        "moved_pages": moved["demand_pages"] + moved["prefetch_pages"],
        "stall_ms_a_step": 1e3 * sum(r.stall_seconds for r in reports) / steps,
        "step_ms": 1e3 * seconds / steps,
        "tokens_a_second": sum(r.sequences for r in reports) / seconds,
        **{name: 1e3 * value / steps for name, value in spent.items()},
    }


if __name__ == "__main__":
    main()
