"""The main job on a real model: decode, attach while it runs, learn from what it touches, go on with the model."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from hotset.ops import samples
from hotset.ops.demo.processes import Process, progress_of, session_status, steps_done
from hotset.ops.progress import bars
from hotset.ops.report.build import write_report

POLL_SECONDS = 0.2
PATIENCE_SECONDS = 900.0
SELECTED, PAGE_TOKENS = 32, 16
SELECTED_TOKENS = SELECTED * PAGE_TOKENS


@dataclass(frozen=True)
class DemoOptions:
    """Sizes of the demo. Steps are decode steps of the whole batch."""

    runs: Path = Path("runs")
    model: Path | None = None
    sequences: int = 3
    context: int = 4096
    hbm_fraction: float = 0.135
    builtin_steps: int = 8
    train_after: int = 72
    learned_steps: int = 40
    most_steps: int = 800
    """of decoding, should training take long"""
    link_gbps: float | None = None
    """None: that of this machine"""
    seed: int = 0


def run_demo(options: DemoOptions, console: Console) -> dict[str, Any]:
    """Run the demo; returns the summary, which is also in `summary.json` beside `report.html` in the run's folder."""
    folder = options.runs / datetime.now().strftime("%Y%m%d-%H%M%S")
    folder.mkdir(parents=True)
    model = options.model or samples.embedded_model()
    console.print(
        f"[bold]hotset demo[/]: {model.name}, {options.sequences} sequences of {options.context} tokens, "
        f"{options.hbm_fraction:.1%} of their KV in fast memory. Everything goes to {folder}/"
    )
    # A runtime folder of its own: the demo's daemon must not steer somebody else's decode, nor theirs ours.
    runtime_dir = tempfile.mkdtemp(prefix="hotset-demo-")
    processes: list[Process] = []
    try:
        with bars(console) as bar:
            _play(options, model, folder, {"HOTSET_RUNTIME_DIR": runtime_dir}, processes, bar)
        with console.status("replaying the log under other policies and drawing the report"):
            summary = write_report(folder)
    finally:
        for process in processes:
            process.kill()
        shutil.rmtree(runtime_dir, ignore_errors=True)
    if (done := summary["phases"]["learned"]["steps"]) < options.learned_steps:
        console.print(
            f"[bold]decoding ended after {summary['steps']} steps, {done} of them with the model[/]: training took "
            "longer than that; --most-steps decodes longer",
            soft_wrap=True,
        )
    return summary


def _play(
    options: DemoOptions,
    model: Path,
    folder: Path,
    environment: dict[str, str],
    processes: list[Process],
    bar: Callable[[str, int, int], None],
) -> None:
    decode = Process(_decode_arguments(options, model, folder), folder / "decode.log", environment)
    processes.append(decode)
    where = folder / "decode"
    _wait(decode, "the decode process", lambda: _show_decode(where, options, bar) >= options.builtin_steps)
    arguments = _daemon_arguments(options, folder, decode.pid)
    daemon = Process(arguments, folder / "daemon.log", environment)
    processes.append(daemon)

    def learned() -> bool:
        # All the steps that it may, before training was over; the daemon ends with them, while tokens are checked.
        if decode.ended_well or daemon.ended_well:
            return True
        daemon.require("the daemon")
        _show_decode(where, options, bar)
        return _learned_steps(folder / "daemon", where, options, bar) >= options.learned_steps

    _wait(decode, "the decode process", learned)
    if daemon.running:
        decode.interrupt()
    _finish(decode, where, options, bar)
    daemon.wait(60)


def _wait(process: Process, what: str, done: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not done():
        process.require(what)
        if time.monotonic() > end:
            process.kill()
            process.require(what)
        time.sleep(POLL_SECONDS)


def _finish(decode: Process, where: Path, options: DemoOptions, bar: Callable[[str, int, int], None]) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while decode.running and time.monotonic() < end:
        _show_decode(where, options, bar)
        time.sleep(POLL_SECONDS)
    if decode.wait(1) != 0:
        decode.require("the decode process")


def _show_decode(where: Path, options: DemoOptions, bar: Callable[[str, int, int], None]) -> int:
    """Mirror the decode process's bars; returns decode steps done."""
    progress = progress_of(where)
    bar("loading", int(bool(progress)), 1)
    for name, (done, total) in progress.items():
        if name == "decode":
            bar("built-in policy", min(done, options.builtin_steps), options.builtin_steps)
        else:
            bar(name, done, total)
    return steps_done(where)


def _learned_steps(log: Path, where: Path, options: DemoOptions, bar: Callable[[str, int, int], None]) -> int:
    """Mirror what the daemon does; returns decode steps since the model was swapped in."""
    status = session_status(log)
    epochs: dict[str, int] = {}
    for phase in status.get("phases", []):
        epochs.setdefault(phase["phase"], phase["epoch"])
    logged, steps = status.get("counters", {}).get("steps_logged", 0), steps_done(where)
    wanted = options.train_after * options.sequences
    if "heuristic" in epochs:
        bar("heuristic, log", min(logged, wanted), wanted)
    if "training_started" in epochs:
        bar("training", int("training_finished" in epochs), 1)
    done = max(0, steps - epochs["swap"]) if "swap" in epochs else 0
    if done:
        bar("learned model", min(done, options.learned_steps), options.learned_steps)
    return done


def _decode_arguments(options: DemoOptions, model: Path, folder: Path) -> list[str]:
    prompts = folder / "prompts"
    prompts.mkdir()
    arguments = ["decode", "--model", str(model)]
    for i, text in enumerate(samples.split_text(samples.long_text(), options.sequences)):
        file = prompts / f"{i}.txt"
        # More characters than the context has tokens; the decode process cuts to the token.
        file.write_text(text[: 8 * options.context] + samples.QUESTION, encoding="utf-8")
        arguments += ["--prompt-file", str(file)]
    if options.link_gbps is not None:
        arguments += ["--link-gbps", str(options.link_gbps)]
    return [
        *arguments, "--context", str(options.context), "--max-new-tokens", str(options.most_steps), "--ignore-eos",
        "--hbm-fraction", str(options.hbm_fraction), "--temperature", "0.8", "--seed", str(options.seed),
        "--policy", "lru", "--selected", str(SELECTED), "--page-size", str(PAGE_TOKENS), "--check",
        "--out", str(folder / "decode"),
    ]  # fmt: skip


def _daemon_arguments(options: DemoOptions, folder: Path, pid: int) -> list[str]:
    store = (options.runs / "mlflow").absolute()
    store.mkdir(exist_ok=True)
    # The gate replays a pool of the size that the decode process has.
    ratio = max(1.0, options.hbm_fraction * (options.context + options.most_steps) / SELECTED_TOKENS)
    job = [
        "--experiment", "hotset-demo", "--tracking-uri", f"sqlite:///{store}/mlflow.db", "--pool", "shared",
        "--ratio", f"{ratio:.2f}", "--seed", str(options.seed),
    ]  # fmt: skip
    return [
        "daemon", "--pid", str(pid), "--log-dir", str(folder / "daemon"), "--train",
        "--train-after", str(options.train_after * options.sequences), "--swap", "always",
        # The demo is about pages: sequences that pause would blur its curves.
        "--no-advice-enabled",
        # Two cores have little to spare beside a decode; training should not take all evening.
        "--train-niceness", "5",
        *[f"--train-argument={argument}" for argument in job],
    ]  # fmt: skip
