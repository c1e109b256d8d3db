"""What a daemon's sessions compile although it has warmed up: `python first_steps.py MODEL FOLDER` prints it as JSON.

Run in a process of its own: in another one, tests may have compiled it before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from numba.core.dispatcher import Dispatcher
from stage import Stage, leads, until

from hotset.daemon.planner import Scorer
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.warmup import warm_up
from hotset.ops.play import InsideStep
from hotset.predictor.trace import read_trace

SAMPLE = Path(__file__).parents[2] / "data" / "sample.parquet"


def compiled() -> set[str]:
    """Functions of the daemon and the predictor, each with the types that it is compiled for."""
    return {
        f"{value.py_func.__module__}.{value.py_func.__name__}{signature}"
        for name, module in list(sys.modules.items())
        if name.startswith(("hotset.daemon", "hotset.predictor"))
        for value in list(vars(module).values())
        if isinstance(value, Dispatcher)
        for signature in value.signatures
    }


def play(stage: Stage, scorer: Scorer, steps: int) -> None:
    """A session leads, learns and plans, and is gone again."""
    session = stage.session(scorer)
    until(lambda: leads(session))
    stage.play(steps, learned_by=session)
    stage.end_sessions()


def main(model: Path, folder: Path) -> None:
    """With the heuristic, then with a model: the second session begins with a snapshot of what the first has seen."""
    sample = read_trace(SAMPLE)
    docs = sample.sequences[1:]
    stage = Stage(folder, sample.meta, docs, ratio=2.0, times=6, inside=InsideStep(sample.meta, docs))
    stage.play(3)  # what the engine compiles is not the daemon's
    learned = LearnedScorer.load(model)
    warm_up(HeuristicScorer())
    before = compiled()
    play(stage, HeuristicScorer(), 20)
    play(stage, learned, 90)
    stage.end()
    print(json.dumps(sorted(compiled() - before)))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
