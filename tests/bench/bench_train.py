"""How long it takes to train on N rows, and the memory it needs.

    python tests/bench/bench_train.py [LOG...] [--rows 10000000] [--threads 2] [--trees 32]

Without a LOG the rows are those of the recorded sample, repeated. Building features is timed apart; `trained_seconds`,
binning and boosting, is what the project promises 60 seconds for (10 million rows, 2 cores).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from hotset.predictor.recipe import TREES
from hotset.training.engines import Job, make_engine
from hotset.training.logs import open_logs
from hotset.training.options import TrainOptions
from hotset.training.rows import RowSet, build_rows
from hotset.training.split import split_logs
from hotset.training.train import booster_params

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"


def main() -> None:
    """Build rows, fit, and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("logs", nargs="*", type=Path, default=[SAMPLE], metavar="LOG")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--trees", type=int, default=TREES)
    parser.add_argument("--scratch", type=Path, help="folder for the rows; about 200 bytes each")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=told.scratch) as folder:
        print(json.dumps(measure(told, Path(folder)), indent=1))


def measure(told: argparse.Namespace, folder: Path) -> dict[str, float | int]:
    """Seconds of each stage, and memory at the end of the last."""
    began = time.perf_counter()
    rows = repeat(real_rows(told.logs, told.rows, folder), told.rows)
    built = time.perf_counter()
    binned = built
    cpu = time.process_time()

    def report(stage: str, done: int, total: int) -> None:
        nonlocal binned
        if stage == "binning" and done == total:
            binned = time.perf_counter()

    params = booster_params(TrainOptions(threads=told.threads), rows.rows)
    booster = make_engine("local").fit(rows, Job(params, told.trees), report)
    ended = time.perf_counter()
    return {
        "rows": rows.rows,
        "trees": booster.num_trees(),
        "threads": told.threads,
        "cores": os.cpu_count() or 0,
        "build_seconds": round(built - began, 2),
        "binning_seconds": round(binned - built, 2),
        "boosting_seconds": round(ended - binned, 2),
        "trained_seconds": round(ended - built, 2),
        "trained_cpu_seconds": round(time.process_time() - cpu, 2),
        "load_average": os.getloadavg()[0],
        "anonymous_mib": anonymous_kib() // 1024,
        "peak_resident_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def real_rows(logs: list[Path], wanted: int, folder: Path) -> RowSet:
    """Rows of the logs, both sides of a split together."""
    opened = open_logs(logs)
    split = split_logs(opened, seed=0)
    built = build_rows(opened, split, folder, max_rows=wanted, seed=0, report=lambda *_: None)
    return RowSet((*built.train.shards, *built.held_out.shards), ())


def repeat(rows: RowSet, wanted: int) -> RowSet:
    """The same shards again and again until there are `wanted` rows, the last one cut short."""
    shards, missing = [], wanted
    while missing > 0:
        for shard in rows.shards:
            shards.append(replace(shard, rows=min(shard.rows, missing)))
            missing -= shards[-1].rows
            if missing == 0:
                break
    return RowSet(tuple(shards), ())


def anonymous_kib() -> int:
    """Resident memory that is not a mapped file, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


if __name__ == "__main__":
    main()
