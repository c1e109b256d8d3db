"""Where the fitting happens: one engine a file, chosen by name."""

from __future__ import annotations

from hotset.training.engines.base import Engine, Job, Params
from hotset.training.engines.dask import DaskEngine
from hotset.training.engines.local import LocalEngine
from hotset.training.errors import TrainingError

ENGINES: dict[str, type[Engine]] = {"local": LocalEngine, "dask": DaskEngine}

__all__ = ["ENGINES", "Engine", "Job", "Params", "make_engine"]


def make_engine(name: str) -> Engine:
    """The engine of that name; TrainingError if there is none."""
    if name not in ENGINES:
        raise TrainingError(f"unknown engine {name!r}; choose one of {', '.join(ENGINES)}")
    return ENGINES[name]()
