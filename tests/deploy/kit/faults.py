"""Faults of real processes, one a function: breaks a daemon that steers, or what it steers, or their surroundings.

Each takes a Scene, in which nothing runs yet, starts what it needs, lets the test see that all is well
(`scene.well()`), and then does the harm. Whoever runs on is ended by the scene's sandbox.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from checkpoints import write_checkpoint
from sandbox import HOTSET, META, WAIT, Hotset, planned, until

from hotset.predictor.trace import TraceWriter
from hotset.protos.messages import AccessFlag

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample.parquet"
STEADY, ROTATING = "steady", "rotating"


class Scene:
    """Processes of one fault, and the port at which Prometheus finds the daemon."""

    def __init__(self, hotset: Hotset, port: int, well: Callable[[], None]) -> None:
        self.hotset, self.port, self.well = hotset, port, well
        self.over = threading.Event()
        """set once the test has seen enough"""

    def daemon(self, *arguments: object, **options: object) -> subprocess.Popen[str]:
        """The daemon that Prometheus watches."""
        return self.hotset.daemon("--metrics-port", self.port, *arguments, **options)

    def play(self, *phases: tuple[int, str], speed: float = 30) -> subprocess.Popen[str]:
        """A decode process without a model, whose accesses go through phases of so many steps each."""
        folder = self.hotset.folder / "-".join(f"{steps}{kind}" for steps, kind in phases)
        if not folder.exists():
            write_phases(folder, phases)
        return self.hotset.start("play", folder, "--speed", speed, "--times", 1000)

    def plans(self) -> None:
        """Wait until a session has plans."""
        until(lambda: any(planned(status) > 20 for status in self.hotset.statuses()))


def stopped(scene: Scene) -> None:
    """The daemon is stopped, as by a debugger or a machine out of memory (SIGSTOP)."""
    daemon = scene.daemon()
    scene.play((200, STEADY))
    scene.plans()
    scene.well()
    daemon.send_signal(signal.SIGSTOP)


def hung_disk(scene: Scene) -> None:
    """The daemon waits forever for a file system that hangs: here a pipe in place of its configuration."""
    file = scene.hotset.folder / "daemon.toml"
    file.write_text("plan_every = 1\n")
    daemon = scene.daemon("--config", file)
    scene.play((200, STEADY))
    scene.plans()
    scene.well()
    file.unlink()
    os.mkfifo(file)
    daemon.send_signal(signal.SIGHUP)


def full_disk(scene: Scene) -> None:
    """The log lies on a file system of half a megabyte, which fills up."""
    disk = scene.hotset.folder / "disk"
    disk.mkdir()
    mount = ("unshare", "-rm", "sh", "-c", 'mount -t tmpfs -o size=512k hotset-test "$0" && exec "$@"', str(disk))
    scene.hotset.logs = disk / "logs"
    scene.daemon("--flush-seconds", 0.3, command=(*mount, *HOTSET))
    scene.well()
    scene.play((400, STEADY), speed=100)


def refused_configuration(scene: Scene) -> None:
    """Somebody mistypes a key and reloads."""
    file = scene.hotset.folder / "daemon.toml"
    file.write_text("plan_every = 1\n")
    daemon = scene.daemon("--config", file)
    scene.well()
    file.write_text("plan_evry = 1\n")
    daemon.send_signal(signal.SIGHUP)


def somebody_elses(scene: Scene) -> None:
    """Another daemon, which Prometheus does not see, takes the lease while ours is away."""
    engine = scene.play((200, STEADY))
    ours = scene.daemon()
    scene.plans()
    scene.well()
    assert scene.hotset.run("detach", engine.pid).returncode == 0
    other = scene.hotset.start("daemon", "--log-dir", scene.hotset.folder / "other")
    until(lambda: scene.hotset.ps()[0]["controller"] == f"hotset-daemon {other.pid}")
    ours.terminate()
    ours.wait()
    scene.daemon()


def starved(scene: Scene) -> None:
    """The daemon gets the processor for a small share of the time only (SIGSTOP and SIGCONT in turn)."""
    daemon = scene.daemon()
    scene.play((200, STEADY), speed=150)
    scene.plans()
    scene.well()

    def starve() -> None:
        while not scene.over.is_set():
            daemon.send_signal(signal.SIGSTOP)
            time.sleep(0.4)
            daemon.send_signal(signal.SIGCONT)
            time.sleep(0.02)

    threading.Thread(target=starve, daemon=True).start()


def slow_link(scene: Scene) -> None:
    """A decode process behind a link that is far too slow for its pool."""
    folder = scene.hotset.folder
    write_checkpoint(folder / "checkpoint")
    (folder / "prompt.txt").write_text(" ".join(f"w{j * j % 64}" for j in range(300)))
    scene.daemon()
    scene.well()
    scene.hotset.start(
        "decode", "--model", folder / "checkpoint", "--prompt-file", folder / "prompt.txt", "--max-new-tokens", 6000,
        "--page-size", 8, "--selected", 8, "--hbm-fraction", 0.05, "--threads", 1, "--ignore-eos", "--link-gbps", 0.002,
    )  # fmt: skip


def more_than_the_pool_holds(scene: Scene) -> None:
    """What is decoded begins to go round more pages than there are slots."""
    scene.daemon()
    scene.play((500, STEADY), (1500, ROTATING))
    scene.plans()
    scene.well()


def unlike_its_training(scene: Scene) -> None:
    """A model that has learned that pages just used come last is put to work where they come first."""
    write_phases(scene.hotset.folder / "learned", [(300, ROTATING)])
    train(scene, scene.hotset.folder / "learned", "model", "--split", "time")
    scene.daemon("--model", scene.hotset.folder / "model" / "model")
    scene.well()
    scene.play((1000, STEADY), speed=60)


def older_model(scene: Scene) -> None:
    """A daemon comes back with a model of its own that is older than what a second daemon put in force meanwhile."""
    folder = scene.hotset.folder
    write_checkpoint(folder / "checkpoint")
    (folder / "prompt.txt").write_text(" ".join(f"w{j * j % 64}" for j in range(300)))
    decode = scene.hotset.start(
        "decode", "--model", folder / "checkpoint", "--prompt-file", folder / "prompt.txt", "--max-new-tokens", 7800,
        "--page-size", 8, "--selected", 8, "--lookahead", 1, "--threads", 1, "--ignore-eos",
        # Steps of some length, so that it lasts.
        "--link-gbps", 1, "--link-latency-us", 2000,
    )  # fmt: skip
    own = "--train", "--train-after", 100, "--swap", "always", "--train-niceness", 0
    ours = scene.daemon(*own)
    until(lambda: in_force(scene.hotset, scene.hotset.logs), WAIT)
    scene.well()
    ours.terminate()
    ours.wait()
    train(scene, SAMPLE, "newer", "--trees", 8, "--rows", 40000)
    other = scene.hotset.start("daemon", "--log-dir", folder / "other", "--model", folder / "newer" / "model")
    until(lambda: in_force(scene.hotset, folder / "other"))
    other.kill()
    other.wait()
    assert decode.poll() is None
    scene.daemon(*own)


def misled(scene: Scene) -> None:
    """A model that has learned to trust the lookahead is put to work where that names other pages than are used."""
    write_guesses(scene.hotset.folder / "true", 200, honest=True)
    train(scene, scene.hotset.folder / "true", "model", "--split", "time")
    scene.daemon("--model", scene.hotset.folder / "model" / "model")
    write_guesses(scene.hotset.folder / "false", 1000, honest=False)
    scene.well()
    scene.hotset.start("play", scene.hotset.folder / "false", "--speed", 40)


def train(scene: Scene, log: Path, name: str, *options: object) -> None:
    """A model of a log, in a folder of that name."""
    done = scene.hotset.run("train", log, "--out", scene.hotset.folder / name, *options)
    assert done.returncode == 0, done.stderr


def in_force(hotset: Hotset, logs: Path) -> bool:
    """Whether a daemon that logs there has a model at work inside the step."""
    own, hotset.logs = hotset.logs, logs
    try:
        return any(status["in_step"].get("model", {}).get("state") == "in force" for status in hotset.statuses())
    finally:
        hotset.logs = own


def write_guesses(folder: Path, steps: int, *, honest: bool) -> None:
    """A trace of one sequence that uses pages at random; its lookahead names just them, or (not honest) just others."""
    writer, rng = TraceWriter(folder, META, rows_per_part=1 << 20, lookahead=(1,)), np.random.default_rng(0)
    lanes, pages = META.layers * META.kv_heads, 60
    for step in range(steps):
        order = np.argsort(rng.random((lanes, pages)), axis=1).astype(np.int32)
        best = np.sort(order[:, : META.candidates], axis=1)
        chosen = (best[:, :, None] == order[:, None, : META.selected]).any(axis=2)
        writer.append(
            sequence=0, step=step, epoch=step, length=pages * META.page_size + 1 + step, pages=best,
            scores=np.where(chosen, 200, 100).astype(np.uint8),
            flags=(chosen * np.uint8(AccessFlag.SELECTED)).astype(np.uint8),
            lookahead={1: order[:, : META.candidates] if honest else order[:, -META.candidates :]},
        )  # fmt: skip
    writer.close()


def write_phases(folder: Path, phases: Sequence[tuple[int, str]]) -> None:
    """A trace of one sequence. Steady: hot pages drift slowly. Rotating: every page in turn, longest unused first."""
    writer, rng = TraceWriter(folder, META, rows_per_part=1 << 20), np.random.default_rng(0)
    lanes, pages, step = META.layers * META.kv_heads, 60, 0
    heat = rng.normal(size=(lanes, pages))
    for steps, kind in phases:
        for _ in range(steps):
            heat += rng.normal(scale=0.2, size=heat.shape)
            turn = (np.arange(pages) - step * META.selected) % pages
            now = heat if kind == STEADY else np.broadcast_to(-turn / 4.0, heat.shape)
            best = np.sort(np.argsort(-now, axis=1)[:, : META.candidates].astype(np.int32), axis=1)
            score = np.take_along_axis(now, best, axis=1)
            chosen = np.argsort(np.argsort(-score, axis=1), axis=1) < META.selected
            writer.append(
                sequence=0, step=step, epoch=step, length=pages * META.page_size + 1 + step, pages=best,
                scores=np.clip(150 + 20 * score, 0, 255).astype(np.uint8),
                flags=(chosen * np.uint8(AccessFlag.SELECTED)).astype(np.uint8),
            )  # fmt: skip
            step += 1
    writer.close()
