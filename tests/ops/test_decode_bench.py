"""The decode bench at its smallest: on the CPU backend as a user calls it, and its GPU arms without a GPU."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from hotset.ops.cli import build
from hotset.ops.decode_bench.arms import ARMS, Measured, measure, turns
from hotset.ops.decode_bench.heads import random_heads
from hotset.ops.decode_bench.host import PARTS
from hotset.ops.decode_bench.replay import Replay
from hotset.ops.decode_bench.run import run
from hotset.ops.decode_bench.shapes import LLAMA, SHAPES
from hotset.ops.decode_bench.sidecar import PLANS, STEPS
from hotset.predictor.trace import read_trace
from hotset.protos.errors import ConfigError
from hotset.runtime.gpu import InlineDevice
from hotset.runtime.huggingface import model_shape

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
TINY = SHAPES["tiny"]


@pytest.fixture(scope="module")
def model() -> Any:
    return TINY.load("cpu")[0]


@pytest.fixture(scope="module")
def replay(model: Any) -> Replay:
    return Replay.tile(read_trace(SAMPLE), model_shape(model, "tiny"), 4, TINY.start // TINY.page_size, "cpu")


def test_a_replay_tiles_the_record(replay: Replay) -> None:
    trace = read_trace(SAMPLE)
    assert replay.period == 158
    assert replay.pages[0].shape == (158, 4, 2, 128)
    recorded = torch.from_numpy(trace.sequences[1].pages[:80, 3].copy())
    assert torch.equal(replay.pages[1][:80, 1, 1], recorded.clamp(min=0) % (TINY.start // TINY.page_size))
    assert torch.equal(replay.pages[1][79:, 1, 1], replay.pages[1][:80, 1, 1].flip(0)[:79])
    assert torch.equal(replay.pages[0][:10, 2, 0], replay.pages[0][7:17, 0, 0])


@pytest.fixture(scope="module")
def arms(model: Any, replay: Replay) -> dict[str, Measured]:
    device = InlineDevice
    alone = [arm for arm in ARMS if arm != "2k+attached"]
    return {arm: measure(arm, TINY, model, None, 3, 6, replay, device(), random_heads()) for arm in alone}


def test_the_arms_of_a_gpu_differ_as_they_should(arms: dict[str, Measured]) -> None:
    assert [arms[arm].misses for arm in ("hbm", "ample")] == [0, 0]
    assert arms["2k"].misses > 1
    assert arms["2k+lists"].misses < arms["2k"].misses
    assert arms["2k+lists"].moved_bytes > arms["2k"].moved_bytes > 0
    assert arms["2k+bare"].misses <= arms["2k"].misses
    assert arms["2k+bare"].moved_bytes > arms["2k"].moved_bytes
    assert arms["2k+learned"].moved_bytes > arms["2k+held"].moved_bytes > 0
    assert all(len(tokens) == 1 + 12 + 2 * 6 for arm in arms.values() for tokens in arm.tokens)


def test_the_host_s_part_of_a_step_is_told_part_by_part(model: Any, replay: Replay) -> None:
    methods = [owner.__dict__.get(method) for owner, method, _ in PARTS]
    rows = measure("2k+lists", TINY, model, None, 3, 6, replay, InlineDevice(), timed=True).host
    assert methods == [owner.__dict__.get(method) for owner, method, _ in PARTS]
    step, *parts = rows
    found = {row["part"]: row for row in parts if row["thread"] == "loop"}
    assert [found[part]["calls a step"] for part in ("send the inputs", "launch the pass", "read the tokens")] == [
        1
    ] * 3
    assert 0 < found["send the inputs"]["at us"] < found["launch the pass"]["at us"] < found["read the tokens"]["at us"]
    assert 0 < found["launch the pass"]["us a step"] < step["us a step"]
    assert [row["thread"] for row in parts if row["part"] == "make a message"] == ["hotset-events"]
    assert measure("2k", TINY, model, None, 3, 6, replay, timed=True).host == [], "a CPU's steps are not launched"


def test_as_a_user_calls_it_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    shown = [arm for arm in ARMS if arm not in ("2k+learned", "2k+attached")]
    arguments = ["bench", "decode", "--trace", str(SAMPLE), "--batch", "2", "--steps", "2"]
    arguments += [word for arm in (*shown, "2k+learned") for word in ("--arm", arm)]
    done = CliRunner().invoke(build(), [*arguments, "--json", str(tmp_path / "a"), "--markdown", str(tmp_path / "b")])
    assert done.exit_code == 0, done.output
    report = json.loads((tmp_path / "a").read_text())
    (rows,) = report["tables"].values()
    assert [row["arm"] for row in rows] == shown
    assert all(row["tokens/s"] > 0 for row in rows)
    assert report["environment"]["device"] == "cpu"
    assert "| batch | arm |" in (tmp_path / "b").read_text()


def test_a_daemon_steers_the_arm_that_is_attached(model: Any, replay: Replay, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOTSET_RUNTIME_DIR", "/nowhere")
    found = measure("2k+attached", TINY, model, None, 3, 4, replay, InlineDevice())
    assert os.environ["HOTSET_RUNTIME_DIR"] == "/nowhere"
    # Until enough of its plans were applied, and then in turn without it and beside it.
    taken = 3 * 2 * (12 + 4)
    assert 1 + taken + PLANS <= len(found.tokens[0]) <= 1 + taken + STEPS


@pytest.mark.parametrize(("shape", "steps", "expected"), [("llama", 16, 7), ("llama", 4, 9), ("llama", 400, 1)])
def test_a_daemon_is_measured_in_as_many_turns_as_the_context_has_room_for(
    shape: str, steps: int, expected: int
) -> None:
    assert turns(SHAPES[shape], steps) == expected


def test_a_daemon_that_cannot_run_is_told_in_its_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    (rows,) = run(["tiny"], batches=[1], steps=2, trace=SAMPLE, arms=["2k+attached"])["tables"].values()
    assert rows[0]["tokens"].startswith("not measured: the daemon ended")


def test_an_arm_that_is_none_is_said() -> None:
    with pytest.raises(ConfigError, match="no arm is called 3k"):
        run(["tiny"], arms=["2k", "3k"])


def test_random_weights_want_a_trace() -> None:
    with pytest.raises(ConfigError, match="--trace"):
        run(["tiny"])


def test_the_large_shape_is_that_of_llama_3_8b() -> None:
    assert (LLAMA["num_hidden_layers"], LLAMA["num_key_value_heads"], SHAPES["llama"].context) == (32, 8, 32768)
