"""What `hotset decode` does: load, prefill, decode, and leave what happened in a folder (run_folder.py)."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from hotset.ops.lanes import LaneFilm
from hotset.ops.listening import Listening
from hotset.ops.progress import bars
from hotset.ops.run_folder import RESULT_FILE, STEPS_FILE
from hotset.protos.errors import ConfigError
from hotset.runtime.backends import check_device
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, Generation, PromptKV, Request, StepReport
from hotset.runtime.huggingface import load_model
from hotset.runtime.sampling import Sampling


@dataclass(frozen=True)
class Job:
    """One run of the decode process."""

    model: Path
    prompts: list[str]
    max_new_tokens: int
    context: int | None
    config: dict[str, Any]
    sampling: Sampling
    ignore_eos: bool
    listen: Listening | None
    check: bool
    out: Path | None
    threads: int = 0
    device: str = "cpu"


class Stop:
    """Whether somebody asked to stop. Not a threading.Event: its lock would hang a signal in the handler of another."""

    def __init__(self) -> None:
        self._asked = False

    def set(self) -> None:
        """Ask. Safe in a signal handler."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether anybody has."""
        return self._asked


def run(job: Job, console: Console) -> dict[str, Any]:
    """Decode all prompts, as many at once as may run; returns what RESULT_FILE holds."""
    import torch

    check_device(job.device)
    if job.out:
        job.out.mkdir(parents=True, exist_ok=True)
    if job.threads:
        torch.set_num_threads(job.threads)
    with console.status(f"loading {job.model.name}"):
        dtype = torch.float32 if job.device == "cpu" else torch.bfloat16
        model, tokenizer = load_model(job.model, dtype, job.device)
    prompts = [encode(tokenizer, text, job.context) for text in job.prompts]
    with stopping() as stopped:
        kept = [PromptKV() for _ in prompts] if job.check else None
        first = _decode(job, model, tokenizer, prompts, job.config, console, stopped, log=job.out, keep=kept)
    result = {"model": job.model.stem, **first}
    if job.check:
        same = _matches_untiered(job, model, tokenizer, prompts, first, console, kept or [])
        result["tokens_identical_to_untiered"] = same
    if job.out:
        (job.out / RESULT_FILE).write_text(json.dumps(result, indent=1))
    return result


def encode(tokenizer: Any, text: str, context: int | None) -> list[int]:
    """Token ids of `text` as a user's message, its middle cut so that the prompt has `context` tokens at most."""
    marker = "\x00"
    if getattr(tokenizer, "chat_template", None):
        message = [{"role": "user", "content": marker}]
        frame = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        before, after = frame.split(marker)
    else:
        before, after = "", ""
    head, tail = tokenizer(before)["input_ids"], tokenizer(after, add_special_tokens=False)["input_ids"]
    body = tokenizer(text, add_special_tokens=False)["input_ids"]
    if context is not None and len(head) + len(body) + len(tail) > context:
        room = context - len(head) - len(tail)
        end = min(64, room // 4)
        body = body[: room - end] + body[len(body) - end :]
    return [*head, *body, *tail]


def _decode(
    job: Job,
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    options: dict[str, Any],
    console: Console,
    stopped: Stop,
    *,
    log: Path | None = None,
    limits: list[int] | None = None,
    keep: list[PromptKV] | None = None,
    given: list[PromptKV] | None = None,
) -> dict[str, Any]:
    limits = limits or [job.max_new_tokens] * len(prompts)
    total = sum(map(len, prompts)) + sum(limits)
    config = RuntimeConfig.checked(**{"max_tokens": total, "max_sequences": len(prompts), **options})
    _check_context(model, prompts, limits)
    with console.status("taking memory") as status:
        decoder = Decoder(
            model, None if job.ignore_eos else tokenizer, config, name=job.model.stem,
            progress=lambda done, of: status.update(f"pinned {done / 2**30:.1f} of {of / 2**30:.1f} GiB on the host"),
        )  # fmt: skip
    try:
        if job.listen is not None:
            decoder.listen(**job.listen)
        with bars(console, log=job.out, prefix="" if given is None else "check: ") as bar:
            requests = list(_submit(decoder, prompts, limits, job.sampling, bar, stopped, keep, given))
            spent = _steps(decoder, requests, bar, stopped, log)
    finally:
        decoder.close()
    moved = {**vars(decoder.kv.manager.moved)}
    return {
        "geometry": decoder.kv.geometry.model_dump(),
        "steps": decoder.epoch,
        "max_running": config.running,
        **spent,
        "sequences": [_sequence(r.generation, tokenizer) for r in requests if r.generation is not None],
        "moved": {
            **moved,
            "moved_bytes": (moved["demand_pages"] + moved["prefetch_pages"]) * decoder.kv.manager.page_bytes,
        },
    }


def _submit(
    decoder: Decoder,
    prompts: list[list[int]],
    limits: list[int],
    sampling: Sampling,
    bar: Callable[[str, int, int], None],
    stopped: Stop,
    keep: list[PromptKV] | None,
    given: list[PromptKV] | None,
) -> Iterator[Request]:
    done, total = 0, sum(map(len, prompts))

    def progress(tokens: int) -> None:
        nonlocal done
        done += tokens
        bar("prefill", done, total)
        if stopped.is_set():
            raise KeyboardInterrupt

    for i, (prompt, limit) in enumerate(zip(prompts, limits, strict=True)):
        own = Sampling(sampling.temperature, sampling.top_p, sampling.top_k, sampling.seed + i)
        yield decoder.submit(
            prompt,
            max_new_tokens=limit,
            sampling=own,
            progress=progress,
            keep=keep[i] if keep else None,
            given=given[i] if given else None,
        )


def _steps(
    decoder: Decoder,
    requests: list[Request],
    bar: Callable[[str, int, int], None],
    stopped: Stop,
    log: Path | None,
) -> dict[str, float]:
    """Decode to the end; tokens that steps decoded, seconds that they took, and of these waited for movement."""
    # On a GPU nobody has the residency of a step without waiting for it.
    film = LaneFilm(decoder) if log and decoder.kv.device is None else None
    # The first token of each sequence comes from its prefill.
    total, done = sum(r.max_new_tokens - 1 for r in requests), 0
    seconds = stalled = 0.0
    with (log / STEPS_FILE).open("w") if log else _nowhere() as file:
        for report in _until_stopped(decoder, stopped):
            done += report.sequences
            seconds, stalled = seconds + report.seconds, stalled + report.stall_seconds
            bar("decode", done, total)
            if film is not None:
                film.record()
            if file is not None:
                file.write(json.dumps(asdict(report)) + "\n")
                file.flush()
    if film is not None and log is not None:
        film.save(log)
    return {"decoded_tokens": done, "step_seconds": seconds, "stall_seconds": stalled}


def _until_stopped(decoder: Decoder, stopped: Stop) -> Iterator[StepReport]:
    try:
        for report in decoder.run():
            yield report
            if stopped.is_set():
                return
    except KeyboardInterrupt:
        # A prompt was being admitted. What others have decoded is kept.
        if decoder.epoch == 0:
            raise


@contextmanager
def _nowhere() -> Iterator[None]:
    yield None


def _matches_untiered(
    job: Job,
    model: Any,
    tokenizer: Any,
    prompts: list[list[int]],
    first: dict[str, Any],
    console: Console,
    kept: list[PromptKV],
) -> bool:
    """Decode again with every page resident and nobody attached; whether all tokens are the same.

    The prompts' K and V are those that the model made in the first run, kept outside all tiers.
    """
    console.print("decoding once more with everything in fast memory, to compare token for token")
    slow = ("hbm_fraction", "hbm_pages", "host_pages", "disk_dir", "link_gbps", "link_latency_us", "lookahead")
    options = {k: v for k, v in job.config.items() if k not in slow}
    alone = Job(**{**job.__dict__, "listen": None, "check": False})
    limits = [len(s["tokens"]) for s in first["sequences"]]
    # As many rows a step as before, also where not every prompt has started.
    options |= {"hbm_fraction": 1.0, "max_sequences": len(prompts)}
    again = _decode(alone, model, tokenizer, prompts[: len(limits)], options, console, Stop(),
                    limits=limits, given=kept)  # fmt: skip
    return [s["tokens"] for s in again["sequences"]] == [s["tokens"] for s in first["sequences"]]


def _sequence(generation: Generation, tokenizer: Any) -> dict[str, Any]:
    return {
        "id": generation.sequence.id,
        "prompt_tokens": len(generation.prompt),
        "tokens": generation.tokens,
        "text": tokenizer.decode(generation.tokens, skip_special_tokens=True),
        "finished": generation.finished,
    }


def _check_context(model: Any, prompts: list[list[int]], limits: list[int]) -> None:
    longest = max(len(p) + n for p, n in zip(prompts, limits, strict=True))
    window = getattr(model.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if window is not None and longest > window:
        raise ConfigError(
            f"a sequence of {longest} tokens exceeds the model's context of {window}; lower --context or "
            "--max-new-tokens"
        )


@contextmanager
def stopping() -> Iterator[Stop]:
    """Ctrl-C and SIGTERM end the decode after the current step; what was decoded is kept."""
    stopped = Stop()
    old = {n: signal.signal(n, lambda *_: stopped.set()) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
