"""The committed sample log, which has a lookahead."""

from __future__ import annotations

from pathlib import Path

import pytest

from hotset.predictor.trace import Trace, read_trace

SAMPLE = Path(__file__).parents[2] / "data" / "sample.parquet"


@pytest.fixture(scope="session")
def sample() -> Trace:
    return read_trace(SAMPLE)
