"""The committed sample log, which has a lookahead, and a model trained on a part of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.predictor.dataset import Rows
from hotset.predictor.experiments.fit import device_rows, fit, reuse_rows
from hotset.predictor.lookahead import UseRows
from hotset.predictor.trace import Trace, read_trace

SAMPLE = Path(__file__).parents[2] / "data" / "sample.parquet"


@pytest.fixture(scope="session")
def sample() -> Trace:
    return read_trace(SAMPLE)


@pytest.fixture(scope="session")
def code(sample: Trace) -> tuple[Rows, Rows, UseRows]:
    """Of the sample's code: rows of a model, and of its heads for the device."""
    code = Trace(sample.meta, sample.sequences[:1])
    values, uses = device_rows(code, fraction=0.2, seed=0)
    assert uses is not None
    return reuse_rows(code, fraction=0.05, seed=0), values, uses


@pytest.fixture(scope="session")
def folder(code: tuple[Rows, Rows, UseRows], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with heads for the device."""
    rows, values, uses = code
    made = tmp_path_factory.mktemp("model")
    fit([rows], device=[(values, uses)]).save(made)
    return made
