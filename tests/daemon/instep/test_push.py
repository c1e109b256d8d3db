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
    others = uses._replace(used=~uses.used)
    second = fit([reuse_rows(sample, fraction=0.03, seed=1)], device=[(values, others)])
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


def in_force(scorer: LearnedScorer) -> ModelPush:
    push = ModelPush(TAKES)
    push.wish(scorer)
    message = push.due(1)
    assert message is not None
    push.acknowledged(ack(message.number, True))
    return push


def test_what_is_withdrawn_is_taken_back_once_and_not_sent_again(scorers: tuple[LearnedScorer, ...]) -> None:
    push = in_force(scorers[0])
    push.take_back("worse")
    message = push.due(2)
    assert message is not None
    assert (message.version, len(message.forest), message.sha256, message.rollback) == ("", 0, sha256(b""), True)
    assert push.acknowledged(ack(message.number, True))
    for epoch in range(3, 3 + 2 * RESEND_STEPS):
        push.wish(scorers[0])
        push.observe("", epoch)
        assert push.due(epoch) is None
    assert (push.state, push.reason, push.stays) == ("withdrawn", "worse", False)
    push.renewed()
    again = push.due(9998)
    assert again is not None
    assert not len(again.forest)
    push.wish(scorers[1])
    other = push.due(9999)
    assert other is not None
    assert other.version == scorers[1].version
    push.wish(scorers[0])
    back = push.due(10000)
    assert back is not None
    assert not len(back.forest)
    assert push.state == "withdrawn"


def test_one_that_is_tried_comes_back_or_goes_for_good(scorers: tuple[LearnedScorer, ...]) -> None:
    push = in_force(scorers[0])
    push.take_back("seems worse", tried=True)
    assert push.due(2) is not None
    push.restore()
    message = push.due(3)
    assert message is not None
    assert message.version == scorers[0].version
    push.observe(scorers[0].version, 4)
    push.take_back("seems worse", tried=True)
    assert push.due(5) is not None
    push.take_back("is worse")
    # It has left already.
    assert push.due(6) is None
    assert push.withdrawn == {scorers[0].model.card.device_sha256: "is worse"}


def test_a_runtime_that_does_not_let_go_is_known(scorers: tuple[LearnedScorer, ...]) -> None:
    push = in_force(scorers[0])
    push.take_back("worse")
    message = push.due(2)
    assert message is not None
    push.acknowledged(ack(message.number, False, "corrupt: device model: 0 bytes are too few for a header"))
    assert push.stays
    assert (push.state, push.reason) == ("withdrawn", "worse")
    push.wish(scorers[1])
    assert not push.stays


def test_taking_back_is_said_again_while_steps_name_a_model(scorers: tuple[LearnedScorer, ...]) -> None:
    push, sent = in_force(scorers[0]), []
    push.take_back("worse")
    for epoch in range(2, 8 * RESEND_STEPS):
        push.observe(scorers[0].version, epoch)
        if push.due(epoch) is not None:
            sent.append(epoch)
    assert [epoch - 2 for epoch in sent] == [0, RESEND_STEPS, 3 * RESEND_STEPS, 7 * RESEND_STEPS]
    push.take_back("worse")
    assert push.due(9998) is not None
    push.unsent()
    assert push.due(9999) is not None
