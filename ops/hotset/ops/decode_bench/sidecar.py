"""A daemon process of its own beside a decode that is measured: started, waited for until it steers, and ended."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hotset.protos.discovery import RUNTIME_DIR_VARIABLE
from hotset.protos.errors import HotsetError
from hotset.runtime.decoder import Decoder
from hotset.runtime.steering import LinkSteering

STEPS = 16
"""Steps at most until the daemon steers: it asks for a snapshot in the first, and its plans follow."""
PLANS = 3
"""Plans that the runtime must have applied."""
_SECONDS = 180.0
_END_SECONDS = 30.0
_POLL_SECONDS = 0.01
_STEP_SECONDS = 5.0
_LINES = 3


class SidecarError(HotsetError):
    """The daemon ended, or did not steer in time; the message has the end of what it said."""


@contextmanager
def sidecar(decoder: Decoder) -> Iterator[subprocess.Popen[bytes]]:
    """Have `decoder` listen and start `hotset daemon` for it, which logs and plans; it neither trains nor advises.

    Socket and logs lie below a temporary folder; variables of ours do not reach the daemon. Within, the daemon holds
    the lease. Afterwards it is gone, and nobody steers `decoder`. Raises SidecarError if it never attaches.
    """
    with tempfile.TemporaryDirectory(prefix="hotset-bench-", ignore_cleanup_errors=True) as name:
        folder, before = Path(name), decoder.steering
        with _runtime_dir(folder / "run"):
            decoder.listen()
        link = decoder.steering
        daemon = _start(folder)
        try:
            _attached(decoder, daemon, folder)
            yield daemon
        finally:
            _end(daemon)
            decoder.steering = before
            link.close()


def steered(decoder: Decoder) -> None:
    """Decode until PLANS plans were applied, STEPS steps at most. Raises SidecarError if the daemon sends none."""
    moved, link = decoder.kv.manager.moved, _link(decoder)
    for _ in range(STEPS):
        if moved.plans_applied >= PLANS:
            return
        decoder.step()
        # It has the time that a step of a large model would take.
        seen, end = link.link.counters.plans_received, time.monotonic() + _STEP_SECONDS
        while link.link.counters.plans_received == seen and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
    if moved.plans_applied < PLANS:
        raise SidecarError(f"the daemon sent {moved.plans_applied} plans that held in {STEPS} steps, not {PLANS}")


def _start(folder: Path) -> subprocess.Popen[bytes]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HOTSET_")}
    # Advice would change how many sequences run, and so what a step is.
    told = ["--pid", str(os.getpid()), "--log-dir", str(folder / "logs"), "--no-advice-enabled"]
    with (folder / "said").open("wb") as said:
        return subprocess.Popen(
            [sys.executable, "-m", "hotset.ops", "daemon", *told],
            env={**ours, RUNTIME_DIR_VARIABLE: str(folder / "run")}, stdout=said, stderr=said,
        )  # fmt: skip


def _end(daemon: subprocess.Popen[bytes]) -> None:
    daemon.terminate()
    try:
        daemon.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()


def _attached(decoder: Decoder, daemon: subprocess.Popen[bytes], folder: Path) -> None:
    link, end = _link(decoder), time.monotonic() + _SECONDS
    while not link.link.counters.lease_changes:
        if daemon.poll() is not None or time.monotonic() > end:
            why = "ended" if daemon.poll() is not None else f"did not attach in {_SECONDS:g} s"
            said = (folder / "said").read_text(errors="replace").splitlines()
            raise SidecarError(f"the daemon {why}: {' / '.join(line.strip() for line in said[-_LINES:])}")
        time.sleep(_POLL_SECONDS)


def _link(decoder: Decoder) -> LinkSteering:
    assert isinstance(decoder.steering, LinkSteering)
    return decoder.steering


@contextmanager
def _runtime_dir(folder: Path) -> Iterator[None]:
    before = os.environ.get(RUNTIME_DIR_VARIABLE)
    os.environ[RUNTIME_DIR_VARIABLE] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[RUNTIME_DIR_VARIABLE]
        else:
            os.environ[RUNTIME_DIR_VARIABLE] = before
