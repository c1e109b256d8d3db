"""Promotion: the one way by which a version becomes champion through the gate, and what is noted of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import Trace, read_trace
from hotset.training import registry
from hotset.training.gate import GateResult, GateSettings, refuse_seen, run_gate
from hotset.training.store import open_store
from hotset.training.tracking import MODEL_FOLDER, RunRecord, log_run


@dataclass(frozen=True)
class Promotion:
    """The gate's verdict on a version; `promoted` if it serves now."""

    version: registry.Version
    promoted: bool
    reason: str
    gate: GateResult


def promote(
    version: registry.Version,
    traces: Sequence[Path],
    settings: GateSettings | None = None,
    *,
    store: str | None = None,
) -> Promotion:
    """Let `version` serve if it passes the gate on `traces`, none of which it was trained on.

    Raises TrainingError if a trace was trained on, TraceError or ModelError if one cannot be read.
    """
    model = ReuseModel.load(registry.version_folder(version, store=store))
    read = [read_trace(path) for path in traces]
    refuse_seen(read, model.card.trained_on)
    return promote_on(version, model, read, settings or GateSettings(), store=store)


def adopt(folder: Path, name: str, *, store: str | None = None) -> registry.Version:
    """Register a model folder that was trained elsewhere as the next version of `name`.

    Raises ModelError if it holds no model that this hotset can use.
    """
    model = ReuseModel.load(folder)
    opened = open_store(store)
    record = RunRecord(folders={MODEL_FOLDER: folder}, tags={"hotset.model": model.card.version})
    run = log_run(opened, "hotset", f"{name}-adopted-{model.card.version[:8]}", record)
    source = run.model_source(MODEL_FOLDER)
    return registry.register(name, source, run.run_id, model.card.metrics, store=opened.uri)


def promote_on(
    version: registry.Version,
    model: ReuseModel,
    traces: Sequence[Trace],
    settings: GateSettings,
    *,
    store: str | None = None,
) -> Promotion:
    """`promote` on traces in memory that the caller knows to be held out."""
    serving = registry.champion(version.name, store=store)
    incumbent = None
    if serving is not None and serving.number != version.number:
        incumbent = ReuseModel.load(registry.version_folder(serving, store=store))
    gate = run_gate(traces, model, incumbent, settings)
    registry.tag_version(version, _tags(gate), store=store)
    if gate.passed:
        registry.set_champion(version, store=store)
    return Promotion(version, gate.passed, gate.reason, gate)


def _tags(gate: GateResult) -> dict[str, str]:
    first = gate.figures[0]
    device = {"gate.device_stall_seconds": f"{gate.on_device[0].stall_seconds:.6g}"} if gate.on_device else {}
    return device | {
        "gate": "passed" if gate.passed else "refused",
        "gate.reason": gate.reason[:1000],
        "gate.stall_seconds": f"{first.stall_seconds:.6g}",
        "gate.moved_bytes": str(first.moved_bytes),
    }
