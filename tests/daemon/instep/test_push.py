"""What is pushed, when, and what is done with the answer."""

from __future__ import annotations

import numpy as np
import pytest

from hotset.daemon.instep.push import RESEND_STEPS, ModelPush
from hotset.daemon.scorers import LearnedScorer
from hotset.predictor.experiments.fit import device_rows, fit, reuse_rows
from hotset.predictor.model import ReuseModel
from hotset.predictor.trace import Trace
from hotset.protos.device_features import DEVICE_FEATURES_HASH, PAGE_FEATURES_HASH
from hotset.protos.device_model import DeviceModel
from hotset.protos.forest import sha256
from hotset.protos.messages import Ack, InStep

TAKES = InStep(models=True, value_features=PAGE_FEATURES_HASH, use_features=DEVICE_FEATURES_HASH)


@pytest.fixture(scope="module")
def scorers(sample: Trace) -> tuple[LearnedScorer, LearnedScorer, LearnedScorer]:
    """Two models with heads for the device, and one without."""
    rows = [reuse_rows(sample, fraction=0.02, seed=0)]
    values, uses = device_rows(sample, fraction=0.05, seed=0)
    assert uses is not None
    first = fit(rows, device=[(values, uses)])
    second = fit([reuse_rows(sample, fraction=0.03, seed=1)], device=[(values, uses)])
    return LearnedScorer(first), LearnedScorer(second), LearnedScorer(ReuseModel(first.card.__class__(), first.text))


def ack(number: int, accepted: bool, reason: str = "") -> Ack:
    return Ack(of="model", number=number, accepted=accepted, reason=reason)


def test_a_model_is_pushed_once_and_is_what_its_hash_says(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(scorers[0])
    message = push.due(1)
    assert message is not None
    data = message.forest.tobytes()
    assert sha256(data) == message.sha256
    np.testing.assert_array_equal(
        DeviceModel.from_bytes(data).use.threshold,
        scorers[0].model.device.model.use.threshold,  # type: ignore[union-attr]
    )
    assert (message.version, push.state) == (scorers[0].version, "sent")
    push.wish(scorers[0])
    assert push.due(2) is None
    assert push.acknowledged(ack(message.number, True))
    assert push.state == "in force"
    for epoch in range(3, 3 + 4 * RESEND_STEPS):
        push.observe(scorers[0].version, epoch)
        assert push.due(epoch) is None


def test_a_swap_pushes_the_next_and_growing_numbers(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(scorers[0])
    first = push.due(1)
    push.wish(scorers[1])
    second = push.due(2)
    assert first is not None
    assert second is not None
    assert second.number > first.number
    assert not push.acknowledged(ack(first.number, False, "superseded by 2"))
    assert push.state == "sent"


def test_what_is_refused_is_not_sent_again_before_a_new_lease(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(scorers[0])
    message = push.due(1)
    assert message is not None
    push.acknowledged(ack(message.number, False, "foreign: other features"))
    assert (push.state, push.reason) == ("refused", "foreign: other features")
    for epoch in range(2, 2 + 2 * RESEND_STEPS):
        push.wish(scorers[0])
        push.observe("", epoch)
        assert push.due(epoch) is None
    push.renewed()
    assert push.due(9999) is not None


def test_one_that_got_lost_is_sent_again_ever_more_patiently(scorers: tuple[LearnedScorer, ...]) -> None:
    push, sent = ModelPush(TAKES), []
    push.wish(scorers[0])
    for epoch in range(8 * RESEND_STEPS):
        push.observe("another", epoch)
        if push.due(epoch) is not None:
            sent.append(epoch)
    assert sent == [0, RESEND_STEPS, 3 * RESEND_STEPS, 7 * RESEND_STEPS]


def test_a_full_queue_is_tried_again_at_the_next_step(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(scorers[0])
    assert push.due(1) is not None
    push.unsent()
    assert push.due(2) is not None


def test_a_takeover_sees_what_runs_already(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(scorers[0])
    push.observe(scorers[0].version, 7)
    assert push.due(7) is None
    assert push.state == "in force"


def test_only_what_a_person_chose_may_be_older(scorers: tuple[LearnedScorer, ...]) -> None:
    for meant in (True, False):
        push = ModelPush(TAKES)
        push.wish(scorers[0], meant=meant)
        message = push.due(1)
        assert message is not None
        assert message.rollback is meant


@pytest.mark.parametrize(
    ("in_step", "enabled", "why"),
    [
        (InStep(), True, "decides nothing by a model"),
        (TAKES.model_copy(update={"use_features": "0" * 64}), True, "other features"),
        (TAKES, False, "switched off"),
    ],
)
def test_a_runtime_that_takes_none_is_sent_none(
    scorers: tuple[LearnedScorer, ...], in_step: InStep, enabled: bool, why: str
) -> None:
    push = ModelPush(in_step, enabled=enabled)
    push.wish(scorers[0])
    push.renewed()
    assert push.due(1) is None
    assert push.state == "closed"
    assert why in push.reason


def test_a_model_without_heads_is_not_pushed_and_status_says_so(scorers: tuple[LearnedScorer, ...]) -> None:
    push = ModelPush(TAKES)
    push.wish(None)
    assert (push.state, push.reason) == ("none", "no model is in service")
    push.wish(scorers[2])
    assert push.due(1) is None
    assert push.state == "none"
    assert "has no heads for the device" in push.reason
