"""Plan latency: from a step's event to the plan on the wire, between two processes over ipc.

    python tests/bench/bench_plan.py [--sequences 64] [--rate 2e6] [--seconds 20]

3,072 lanes of 128 candidates by default, once planned by the heuristic and once by a model that is trained on the
recorded sample. `plan_ms` is what the decode process sees, from publishing a step to the next plan in its hands;
`arrival_to_sent_ms` what the daemon sees; `scored_share` is the share of all lanes whose turn came between two plans,
`scored_rows_a_plan` the values and prefetches that a plan holds. Prints one JSON object a scorer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from bench_ingest import served  # type: ignore[import-not-found]

from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.predictor.experiments.fit import fit, reuse_rows
from hotset.predictor.trace import read_trace

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def main() -> None:
    """Measure both scorers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--rate", type=float, default=2e6, help="selected pages a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    told = parser.parse_args()
    learned = LearnedScorer(fit([reuse_rows(read_trace(SAMPLE), fraction=0.5, seed=0)]))
    for scorer in (HeuristicScorer(), learned):
        found = served(scorer, False, sequences=told.sequences, rate=told.rate, seconds=told.seconds)
        print(json.dumps({scorer.source: found}), flush=True)


if __name__ == "__main__":
    main()
