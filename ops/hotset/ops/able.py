"""Of the policies that replay knows, those that given traces and a model can serve."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import open_trace


def sort_out(
    names: Sequence[str], traces: Sequence[Path], model: ReuseModel | None
) -> tuple[list[str], dict[str, str]]:
    """The policies that can run, and what each of the others lacks."""
    ranks = all(open_trace(path).lookahead for path in traces)
    lacking = {name: _lack(name, ranks, model) for name in names}
    return [name for name in names if not lacking[name]], {name: lack for name, lack in lacking.items() if lack}


def _lack(name: str, ranks: bool, model: ReuseModel | None) -> str:
    """What a policy needs that is not there, empty if nothing is."""
    ahead = name.startswith(("lookahead", "learned-lookahead", "learned-device"))
    if name.startswith("learned") and model is None:
        return "a model"
    if ahead and not ranks:
        return "traces with a recorded lookahead"
    if name.startswith("learned-lookahead") and model is not None and model.use_forest is None:
        return "a model trained on a log with a lookahead"
    if name.startswith("learned-device") and model is not None and model.device is None:
        return "a model with heads for the device"
    return ""
