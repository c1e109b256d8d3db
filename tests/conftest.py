"""Triton decides when it is first imported whether its kernels are compiled or interpreted, so this comes first."""

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures.thread import _threads_queues
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

if not Path("/dev/nvidia0").exists():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Torch's threads spin while they wait, which starves tests that run beside each other on few cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Compilation and shared cores make the first example of a test slow; no test is about time.
settings.register_profile("hotset", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hotset")


def pytest_collection_finish() -> None:
    """What torch and the others brought stays to the end; the collector need not look through it a thousand times."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _leaves_no_thread() -> Iterator[None]:
    """A thread that outlives its test and is no daemon keeps the whole run from ending, long after it has passed."""
    before = set(threading.enumerate())
    yield
    # Those of executors are told to end when the interpreter does.
    left = [t for t in threading.enumerate() if t not in before and not t.daemon and t not in _threads_queues]
    for thread in left:
        thread.join(5)
    names = [thread.name for thread in left if thread.is_alive()]
    if names:
        pytest.fail(f"left threads behind that nobody ends: {names}")
