"""A daemon's session against an engine that looks ahead: the recorded sample is played."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stage import Stage, leads, until

from hotset.daemon.instep import watch
from hotset.daemon.planner import Scorer
from hotset.daemon.scorers import HeuristicScorer, LearnedScorer
from hotset.daemon.session import Session
from hotset.daemon.warmup import warm_up
from hotset.ops.play import InsideStep
from hotset.predictor.dataset import Rows
from hotset.predictor.experiments.fit import fit
from hotset.predictor.lookahead import UseRows
from hotset.predictor.model import PUSHED_FILE
from hotset.predictor.trace import Trace, read_trace
from hotset.protos.device_features import DEVICE_FEATURES
from hotset.protos.errors import ModelError
from hotset.protos.messages import InStep, LayerFigure


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    warm_up(HeuristicScorer())


def make_stage(folder: Path, sample: Trace, in_step: InStep | None = None) -> Stage:
    """The sample's documents, whose steps decide inside."""
    docs = sample.sequences[1:]
    inside = InsideStep(sample.meta, docs)
    return Stage(folder, sample.meta, docs, ratio=2.0, times=6, inside=inside, in_step=in_step)


def lead(stage: Stage, scorer: Scorer, **options: Any) -> Session:
    """Start a session and wait until it leads."""
    made = stage.session(scorer, **options)
    until(lambda: leads(made))
    return made


@pytest.fixture
def stage(tmp_path: Path, sample: Trace) -> Iterator[Stage]:
    made = make_stage(tmp_path, sample)
    yield made
    made.end()


def counters(session: Session) -> Any:
    assert session.sidecar is not None
    return session.sidecar.status.counters


def phases(session: Session) -> list[str]:
    assert session.sidecar is not None
    return [phase["phase"] for phase in session.sidecar.status.phases]


def in_step(session: Session) -> dict[str, Any]:
    assert session.sidecar is not None
    return session.sidecar._in_step.report()


def test_a_model_is_pushed_acknowledged_and_decides(stage: Stage, folder: Path) -> None:
    scorer = LearnedScorer.load(folder)
    session = lead(stage, scorer, link_gbps=50.0)
    stage.play(6, learned_by=session)
    until(lambda: counters(session).models_pushed == 1 and "push_accepted" in phases(session))
    stage.play(40, learned_by=session)
    assert stage.inside.version == scorer.version
    assert in_step(session)["model"] == {"state": "in force", "version": scorer.version, "reason": ""}
    assert counters(session).models_pushed == 1
    assert stage.player.played.inside_pages > 200
    assert session.sidecar is not None
    tally, gauges = session.sidecar._in_step.tally, session.sidecar.status.gauges
    # Figures by layer are those of the engine, and precision and coverage make sense.
    assert tally.total[LayerFigure.STEP_PAGES].sum() == stage.player.played.inside_pages
    assert tally.total[LayerFigure.DEMAND_PAGES].sum() == counters(session).demand_pages
    assert tally.total[LayerFigure.STEP_PAGES, 0] == 0
    assert 0.3 < gauges.step_precision <= 1.0  # type: ignore[operator]
    assert 0.2 < gauges.step_coverage <= 1.0  # type: ignore[operator]
    # An idle link lets the thresholds fall to the floor of the rules, and the engine has taken them.
    assert counters(session).lookaheads_sent > 0
    assert counters(session).lookaheads_refused == 0
    assert (stage.inside.least[1:] < 0.45).all()


def test_a_link_that_demand_fills_stops_prefetching_in_the_step(stage: Stage, folder: Path) -> None:
    session = lead(stage, LearnedScorer.load(folder), link_gbps=1e-5)
    stage.play(70, learned_by=session)
    before = stage.player.played.inside_pages
    stage.play(30, learned_by=session)
    assert stage.inside.least[1:].min() > 0.8
    assert stage.inside.pages.max() <= 1
    assert stage.player.played.inside_pages - before <= 30 * stage.inside.pages.sum()


def test_the_log_holds_the_ranks_that_were_acted_on(stage: Stage, sample: Trace) -> None:
    session = lead(stage, HeuristicScorer())
    stage.play(12, learned_by=session)
    stage.end_sessions()
    assert session.sidecar is not None
    (logged,) = read_trace(session.sidecar.status.path.parent / "trace").sequences
    played = sample.sequences[1]
    np.testing.assert_array_equal(logged.lookahead[1], played.lookahead[1][:12])
    assert (logged.lookahead[2] == -1).all()
    assert in_step(session)["model"]["reason"] == "no model is in service"


def test_a_daemon_that_comes_again_pushes_again(stage: Stage, folder: Path) -> None:
    scorer = LearnedScorer.load(folder)
    for turn in range(1, 3):
        session = lead(stage, scorer)
        stage.play(6, learned_by=session)
        until(lambda: "push_accepted" in phases(session))  # noqa: B023
        assert counters(session).models_pushed == 1, turn
        stage.end_sessions()


def test_a_refused_model_is_told_once(tmp_path: Path, sample: Trace, folder: Path) -> None:
    stage = make_stage(tmp_path, sample)
    stage.inside.take = lambda model: "foreign: other features"  # type: ignore[method-assign]
    session = lead(stage, LearnedScorer.load(folder))
    stage.play(20, learned_by=session)
    until(lambda: "push_refused" in phases(session))
    stage.play(20, learned_by=session)
    assert (counters(session).models_pushed, counters(session).models_refused) == (1, 1)
    assert in_step(session)["model"]["reason"] == "foreign: other features"
    assert phases(session).count("push_refused") == 1
    stage.end()


def test_an_engine_that_takes_none_gets_none(tmp_path: Path, sample: Trace, folder: Path) -> None:
    stage = make_stage(tmp_path, sample, in_step=InStep())
    session = lead(stage, LearnedScorer.load(folder), link_gbps=50.0)
    stage.play(12, learned_by=session)
    assert (counters(session).models_pushed, counters(session).lookaheads_sent) == (0, 0)
    assert in_step(session)["model"]["state"] == "closed"
    stage.end()


def test_a_file_that_is_damaged_is_never_pushed(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    data = bytearray((tmp_path / PUSHED_FILE).read_bytes())
    data[-9] ^= 0x10
    (tmp_path / PUSHED_FILE).write_bytes(data)
    with pytest.raises(ModelError, match="damaged"):
        LearnedScorer.load(tmp_path)


def test_a_model_whose_prefetches_are_not_used_is_withdrawn_until_another_comes(
    stage: Stage, folder: Path, code: tuple[Rows, Rows, UseRows]
) -> None:
    rows, values, uses = code
    rank = uses.features[:, [feature.name for feature in DEVICE_FEATURES].index("rank")]
    liar = LearnedScorer(fit([rows], device=[(values, uses._replace(used=rank > np.quantile(rank, 0.93)))]))
    session = lead(stage, liar, link_gbps=50.0)
    for _ in range(60):
        stage.play(1, learned_by=session)
        if "push_withdrawn" in phases(session):
            break
    stage.play(60, learned_by=session)
    assert (counters(session).models_pushed, counters(session).models_withdrawn) == (1, 1)
    assert phases(session).count("push_withdrawn") == 1
    assert in_step(session)["model"]["state"] == "withdrawn"
    assert "promised" in in_step(session)["model"]["reason"]
    assert stage.inside.version == ""
    before = stage.player.played.inside_pages
    stage.play(20, learned_by=session)
    assert stage.player.played.inside_pages == before
    # Another version gets its turn, and this one never again.
    assert session.sidecar is not None
    good = LearnedScorer.load(folder)
    for scorer in (good, liar):
        session.sidecar._rule.install(scorer, sequences=1)
        stage.play(40, learned_by=session)
        assert counters(session).models_pushed == 2
        assert stage.inside.version == (scorer.version if scorer is good else "")
    assert in_step(session)["model"]["state"] == "withdrawn"


def test_a_model_by_which_more_is_missed_is_tried_and_withdrawn(
    stage: Stage, code: tuple[Rows, Rows, UseRows], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It fetches next to nothing, and keeps what is used last. A window is the trace once over."""
    monkeypatch.setattr(watch, "WINDOW", 80)
    rows, values, uses = code
    session = lead(stage, HeuristicScorer(), link_gbps=50.0, plan_every=0)
    stage.play(100, learned_by=session)
    assert session.sidecar is not None
    wrong = values._replace(target=-values.target, censored=np.zeros_like(values.censored))
    rare = uses._replace(used=np.arange(len(uses.used)) % 400 == 0)
    session.sidecar._rule.install(LearnedScorer(fit([rows], device=[(wrong, rare)])), sequences=1)
    stage.play(110, learned_by=session)
    assert "push_tried" in phases(session)
    assert stage.inside.version == ""
    stage.play(110, learned_by=session)
    assert phases(session)[-2:] == ["push_tried", "push_withdrawn"]
    assert counters(session).models_withdrawn == 1
    assert stage.inside.version == ""
