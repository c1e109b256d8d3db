"""The committed sample as a load."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.predictor.trace import Trace, read_trace

SAMPLE = Path(__file__).parents[2] / "data" / "sample.parquet"


@pytest.fixture(scope="session")
def sample_path() -> Path:
    """The committed sample log."""
    return SAMPLE


@pytest.fixture(scope="session")
def sample() -> Trace:
    """The committed sample log, read."""
    return read_trace(SAMPLE)
