"""What the simulated engine decides inside its steps, pushed and steered by the real daemon."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hotset.ops.simulate.engine import Engine
from hotset.ops.simulate.inside import DeviceInside
from hotset.ops.simulate.integrity import check_integrity
from hotset.ops.simulate.node import Node
from hotset.ops.simulate.run import Job, simulate, wire_of
from hotset.ops.simulate.wire import Wire
from hotset.ops.simulate.workload import Workload, tile
from hotset.predictor.experiments.fit import device_rows, fit, reuse_rows
from hotset.predictor.trace import Trace
from hotset.protos.errors import ConfigError
from hotset.protos.messages import Ack, LayerFigure, Message, Model, Step
from hotset.runtime.link.control import Published

NODE = Node(ratio=2, link_gbps=50, link_latency_us=2, score_ns=20, lookahead_us=3, lookahead_sequence_us=0.5)


@pytest.fixture(scope="module")
def model(sample: Trace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on the sample's code, with heads for the device."""
    code = Trace(sample.meta, sample.sequences[:1])
    made = tmp_path_factory.mktemp("model")
    values, uses = device_rows(code, fraction=0.2, seed=0)
    assert uses is not None
    fit([reuse_rows(code, fraction=0.05, seed=0)], device=[(values, uses)]).save(made)
    return made


@pytest.fixture(scope="module")
def docs(sample: Trace) -> Workload:
    """Copies of the recording that the model has not seen."""
    return tile(sample.meta, sample.sequences[1:], sequences=3, tokens=40)


def _job(model: Path | None, policy: str = "learned-device", **node: float) -> Job:
    return Job((), policy=policy, model=model, node=NODE.model_copy(update=node))


def test_the_pushed_model_saves_misses_and_its_cost_and_traffic_count(docs: Workload, model: Path) -> None:
    reports = {}
    for policy in ("learned", "learned-device"):
        reports[policy] = simulate(_job(model, policy), docs)[1]
    plain, device = reports["learned"], reports["learned-device"]
    assert device["device_model"]
    assert not plain["device_model"]
    assert device["ahead_pages"] > 0 == plain["ahead_pages"]
    assert device["demand_misses"] < 0.85 * plain["demand_misses"]
    assert device["prefetched_hits"] > 0.5 * device["prefetched_pages"]
    assert device["held_pages"] >= 0 == plain["held_pages"]
    again = simulate(_job(model), docs)[1]
    assert {**device, "wall_seconds": 0} == {**again, "wall_seconds": 0}


def test_every_step_is_whole_and_tells_what_it_did(docs: Workload, model: Path) -> None:
    """Compute, lookahead and waiting make the step; what by_layer tells adds up to what was counted."""
    job, heard = _job(model, link_gbps=0.5, step_us=200), list[Message]()
    with wire_of(job, docs) as wire, pytest.MonkeyPatch.context() as patch:
        engine, publish = Engine(docs, job.node, wire, decides=True), wire.publish

        def hear(message: Published) -> None:
            heard.append(message)
            publish(message)

        patch.setattr(wire, "publish", hear)
        while engine.step():
            check_integrity(engine.pool, engine.tables.tails())
    inside, told = engine.inside, [m for m in heard if isinstance(m, Step)]
    assert isinstance(inside, DeviceInside)
    figures = np.stack([step.by_layer for step in told])
    sums = {figure: int(figures[:, figure].sum()) for figure in LayerFigure}
    tally = engine.tally
    assert sums[LayerFigure.STEP_PAGES] == tally.total("ahead_pages") > 0
    assert sums[LayerFigure.DEMAND_PAGES] == tally.total("demand_pages")
    assert sums[LayerFigure.HELD_PAGES] == inside.held
    assert 0 < sums[LayerFigure.STEP_USED] + sums[LayerFigure.STEP_WASTED] <= sums[LayerFigure.STEP_PAGES]
    # A link this slow keeps attention waiting for prefetches, and the threshold rises.
    assert sums[LayerFigure.LINK_STALL_US] > 0 < inside.late
    assert figures[-1, LayerFigure.LEAST].min() > 5000
    waited = sums[LayerFigure.LINK_STALL_US] + sums[LayerFigure.COPY_STALL_US]
    assert waited == pytest.approx(tally.total("stall_us"), rel=1e-2)
    layers = docs.meta.layers
    for step in tally.steps:
        ahead_us = (layers - 1) * (3 + 0.5 * step.running)
        assert step.step_us == pytest.approx(step.stall_us + 200 + 40 * step.running + ahead_us)
    assert all(step.lookahead_1.shape == (12 * len(step.sequences), docs.meta.candidates) for step in told)
    # Nothing could be estimated for a first layer, whichever layer a copy plays there.
    assert all((step.lookahead_1.reshape(-1, 12, docs.meta.candidates)[:, :2] == -1).all() for step in told)


class _Pushes(Wire):
    """A controller that pushes what a test gives it."""

    attached = True

    def __init__(self, *models: Model) -> None:
        self.models, self.heard = list(models), list[Message]()

    def publish(self, message: Message) -> None:
        self.heard.append(message)

    def take_models(self) -> list[Model]:
        taken, self.models = self.models, []
        return taken


def test_a_corrupt_model_is_refused_and_nothing_is_decided(sample: Trace) -> None:
    bad = Model(number=1, version="bad", sha256="0" * 64, forest=np.arange(99, dtype=np.uint8))
    wire = _Pushes(bad)
    load = tile(sample.meta, sample.sequences, sequences=2, tokens=5)
    engine = Engine(load, NODE, wire, decides=True)
    tally = engine.run()
    ack = next(m for m in wire.heard if isinstance(m, Ack))
    assert (ack.of, ack.accepted, ack.reason.split(":")[0]) == ("model", False, "corrupt")
    assert tally.total("ahead_pages") == 0
    assert engine.inside.version == ""


def test_what_cannot_decide_inside_a_step_says_why(sample: Trace, docs: Workload, model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needs a model"):
        simulate(_job(None), docs)
    code = Trace(sample.meta, sample.sequences[:1])
    fit([reuse_rows(code, fraction=0.02, seed=0)]).save(tmp_path / "plain")
    with pytest.raises(ConfigError, match="no heads for the device"):
        simulate(_job(tmp_path / "plain"), docs)
    blind = tile(sample.meta, [replace(s, lookahead={}) for s in sample.sequences], sequences=2)
    with pytest.raises(ConfigError, match="recordings of a lookahead"):
        simulate(_job(model), blind)
