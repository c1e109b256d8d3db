"""Exact counts on the committed sample, and the published table on the full traces where they are at hand."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from hotset.predictor.policies import POLICIES
from hotset.predictor.replay import Pool, replay_many
from hotset.predictor.trace import Trace, import_npz, read_trace

GOLDEN = Path(__file__).parents[2] / "golden" / "replay_counts.json"
POOLS: tuple[Pool, ...] = ("lane", "shared")
RATIOS = (1.5, 2.0, 4.0)
# Demand misses over accesses of the eight *-p16k64-1-* traces, lane pools, published with them.
TABLE = {
    "lru": (0.14365, 0.10200, 0.04965),
    "score-ema": (0.13055, 0.09269, 0.04632),
    "belady": (0.09762, 0.06470, 0.03130),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("ratio", RATIOS)
def test_sample_counts(pool: Pool, ratio: float, sample: Trace) -> None:
    expected = json.loads(GOLDEN.read_text(encoding="utf-8"))[f"{pool} {ratio:g}"]
    assert expected.keys() == {name for name in POLICIES if not name.startswith(("learned", "lookahead"))}
    results = replay_many([sample], list(expected), ratio=ratio, pool=pool)
    assert {result.policy: result.demand_misses for result in results} == expected


@pytest.mark.skipif("HOTSET_TRACES" not in os.environ, reason="HOTSET_TRACES names no folder of full traces")
def test_published_table(tmp_path: Path) -> None:
    sources = sorted(Path(os.environ["HOTSET_TRACES"]).glob("*-p16k64-1-*.npz"))
    import_npz(sources, tmp_path / "log")
    trace = read_trace(tmp_path / "log")
    for at, ratio in enumerate(RATIOS):
        for result in replay_many([trace], list(TABLE), ratio=ratio):
            assert result.accesses == 9_437_184
            assert result.miss_ratio == pytest.approx(TABLE[result.policy][at], rel=0.01)
