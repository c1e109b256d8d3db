"""Small synthetic trace logs, written by the real writer, and one tracking store for all tests of a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hotset.predictor.trace import TraceWriter
from hotset.protos.messages import AccessFlag
from hotset.protos.trace import TraceMeta
from hotset.training.store import Store, open_store

LAYERS, HEADS, SELECTED, CANDIDATES, PAGE = 2, 2, 6, 12, 16
LANES = LAYERS * HEADS

MakeLog = Callable[..., Path]


def write_log(
    folder: Path, *, sequences: int = 4, steps: int = 60, seed: int = 0, session: str = "", prompt: int = 640
) -> Path:
    """A log in which every lane favours pages with periods of their own: predictable, yet not by recency."""
    rng = np.random.default_rng(seed)
    meta = TraceMeta(
        model="synthetic",
        layers=LAYERS,
        kv_heads=HEADS,
        page_size=PAGE,
        selected=SELECTED,
        candidates=CANDIDATES,
        page_bytes=4096,
        session=session,
        source=folder.name,
    )
    writer = TraceWriter(folder, meta, rows_per_part=LANES * 64)
    count = prompt // PAGE
    for sequence in range(sequences):
        period = rng.integers(2, 24, (LANES, count))
        phase = rng.integers(0, 24, (LANES, count))
        for step in range(steps):
            mass = np.exp(-((step + phase) % period)) + rng.random((LANES, count)) * 0.05
            order = np.argsort(-mass, axis=1)[:, :CANDIDATES]
            best = np.sort(order, axis=1).astype(np.int32)
            chosen = (best[:, :, None] == order[:, None, :SELECTED]).any(axis=2)
            weight = np.take_along_axis(mass, best.astype(np.int64), axis=1)
            writer.append(
                sequence=sequence,
                step=step,
                epoch=sequence * steps + step,
                length=prompt + step + 1,
                pages=best,
                scores=np.clip(255 + 8 * np.log2(weight / weight.sum()), 0, 255).astype(np.uint8),
                flags=chosen.astype(np.uint8) * np.uint8(AccessFlag.SELECTED),
            )
    writer.close()
    return folder


@pytest.fixture
def make_log(tmp_path: Path) -> MakeLog:
    """`write_log` below the test's own folder."""
    return lambda name="log", **options: write_log(tmp_path / name, **options)


@pytest.fixture(scope="session")
def shared_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of six sequences, for tests that only read."""
    return write_log(tmp_path_factory.mktemp("logs") / "log", sequences=6, steps=80)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A real sqlite store, shared because making a database takes seconds."""
    return open_store(str(tmp_path_factory.mktemp("store") / "mlflow.db"))


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A registered model's name of its own for every test."""
    return f"reuse-{request.node.name}".replace("[", "-").replace("]", "")
