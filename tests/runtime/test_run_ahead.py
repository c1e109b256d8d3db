"""Steps that a device gets before the last one's tokens are read: nothing that comes out of them may depend on it."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from backend_kit import Listener, placed
from gpu_kit import BASE, GPU_NAMES, PROMPTS, SMALLEST, Planner, decode, opened

from hotset.protos.messages import Advice, SequenceClose, Snapshot
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, Generation
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.sampling import Sampling

STEPS = 26
WARM = 2 * WARM_UPS + 2
"""Steps after which those of this batch are captured, and what follows them."""
WAYS = [True, False]


def started(model: Any, backend: str, run_ahead: bool, stop: int | None = None, **options: Any) -> Decoder:
    """Three sequences, which end where `stop` is their next token."""
    given = {**placed(model, backend), "tokenizer": None if stop is None else SimpleNamespace(eos_token_id=stop)}
    sizes = {**BASE, "hbm_pages": SMALLEST + 20, "run_ahead": run_ahead, **options}
    decoder = Decoder(**given, config=RuntimeConfig.checked(**sizes))
    for prompt in PROMPTS:
        decoder.open(prompt, max_new_tokens=STEPS)
    return decoder


def launches(decoder: Decoder, steps: int) -> int:
    """Of so many steps, as far as there is anything to decode, those that left the next one launched."""
    found = 0
    for _, _report in zip(range(steps), decoder.run(), strict=False):
        decoder.kv.check_integrity()
        found += decoder.steps.launched
    return found


def finished(decoder: Decoder, generations: list[Generation]) -> list[list[int]]:
    """Their tokens; nothing is left of them in any tier."""
    launches(decoder, 3 * STEPS)
    kv = decoder.kv
    assert not decoder.steps.launched
    assert kv.groups.free_groups == len(kv.groups.references)
    assert not kv.manager.resident_pages().numel()
    assert not kv.manager._average.any(), "freed pages keep their heat"
    decoder.close()
    return [g.tokens for g in generations]


@cache
def reference_of(model: Any, backend: str) -> list[list[int]]:
    """Without tiers; another backend rounds otherwise."""
    return decode(opened(model, backend, STEPS, tiered=False))


def first_stop(reference: list[list[int]]) -> int:
    """A token that ends one text in the middle, and no other before that."""
    for place in range(WARM + 3, STEPS - 4):
        token = reference[1][place]
        if token not in reference[1][:place] and all(token not in other[: place + 2] for other in reference[::2]):
            return token
    raise AssertionError("every token comes twice")


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_all_steps_of_a_batch_that_goes_on_are_launched_ahead_and_the_last_is_not(model: Any, backend: str) -> None:
    decoder = started(model, backend, True)
    launches(decoder, WARM)
    # A tail opens beside the step before, so that steps are launched past the end of a page, too.
    assert launches(decoder, STEPS - WARM - 2) == STEPS - WARM - 2
    assert launches(decoder, STEPS) == 0
    decoder.close()


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_tokens_and_messages_are_those_of_steps_that_wait(model: Any, backend: str) -> None:
    tokens, told = [], []
    for run_ahead in WAYS:
        torch.manual_seed(0)  # of its plans
        decoder, listener = started(model, backend, run_ahead), Planner()
        generations, decoder.steering = list(decoder.running), listener
        tokens.append(finished(decoder, generations))
        told.append(listener.steps)
    assert tokens[0] == tokens[1]
    assert [step.epoch for step in told[0]] == list(range(STEPS - 1))
    for one, other in zip(*told, strict=True):
        assert (one.sequences, one.lengths.tolist()) == (other.sequences, other.lengths.tolist())
        assert one.sequence_steps.tolist() == other.sequence_steps.tolist()
        assert np.array_equal(one.candidates, other.candidates)
        assert np.array_equal(one.scores, other.scores)
        assert one.new_group.tolist() == other.new_group.tolist()
        if backend == "inline":  # which of several pages of one value goes is open on a GPU
            assert np.array_equal(one.flags, other.flags)
            assert sorted(one.loaded) == sorted(other.loaded)
            assert one.stats.demand_pages == other.stats.demand_pages


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_a_text_that_ends_leaves_a_row_that_is_nobodys(model: Any, backend: str) -> None:
    reference = reference_of(model, backend)
    stop = first_stop(reference)
    told, tokens = [], []
    for run_ahead in WAYS:
        decoder, listener = started(model, backend, run_ahead, stop), Listener()
        generations, decoder.steering = list(decoder.running), listener
        launched = False
        while not generations[1].finished:
            assert launches(decoder, 1) >= 0
            launched = decoder.steps.launched
        assert launched == run_ahead, "the row of the one that ended"
        assert [g.finished for g in generations] == ["", "stop", ""]
        tokens.append(finished(decoder, generations))
        told.append(listener)
    assert tokens[0] == tokens[1]
    assert tokens[0][0][:12] == reference[0][:12]
    assert tokens[0][1][-1] == stop
    for one, other in zip(told[0].steps, told[1].steps, strict=True):
        assert one.sequences == other.sequences
        assert one.lengths.tolist() == other.lengths.tolist()
        assert np.array_equal(one.candidates, other.candidates)
        assert np.array_equal(one.scores, other.scores)
    assert sum(len(step.sequences) == 2 for step in told[0].steps) > 2
    closed = [[(m.sequence, m.tokens) for m in listener.heard if isinstance(m, SequenceClose)] for listener in told]
    assert closed[0] == closed[1]


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_a_step_for_nobody_is_dropped(model: Any, backend: str) -> None:
    stop = first_stop(reference_of(model, backend))
    decoder = Decoder(
        **{**placed(model, backend), "tokenizer": SimpleNamespace(eos_token_id=stop)},
        config=RuntimeConfig.checked(**{**BASE, "max_sequences": 2, "hbm_pages": SMALLEST}),
    )
    only = decoder.open(PROMPTS[1], max_new_tokens=STEPS)
    second = decoder.submit(PROMPTS[2], max_new_tokens=4)
    while second.generation is None or not second.generation.finished:
        launches(decoder, 1)
    while not only.finished:
        launches(decoder, 1)
    assert only.finished == "stop"
    assert decoder.steps.launched
    assert finished(decoder, [only])[0][-1] == stop


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_whoever_comes_between_two_steps_finds_them_apart(model: Any, backend: str) -> None:
    """A fork, a prompt that starts at once, one that waits, advice to pause and to shrink the hot set."""
    found, ahead = [], []
    for run_ahead in WAYS:
        # No more than four run, so that all steps have as many rows, padded ones counted, and round alike.
        sizes = {"max_sequences": 6, "max_running": 4, "max_tokens": 400, "hbm_pages": 6 * (6 + 2 * 4) + 60}
        decoder = started(model, backend, run_ahead, **sizes)
        generations = list(decoder.running)
        ahead.append(launches(decoder, WARM))
        generations.append(decoder.fork(generations[0], max_new_tokens=9))
        ahead.append(launches(decoder, 6))
        generations.append(decoder.open(PROMPTS[2][:9], max_new_tokens=12))
        ahead.append(launches(decoder, 3))
        request = decoder.submit(PROMPTS[0][:19], max_new_tokens=12)
        ahead.append(launches(decoder, 2))
        decoder.scheduler.advise(Advice(number=1, concurrency=2, hot_slots=60))
        ahead.append(launches(decoder, 4))
        assert len(decoder.scheduler.running) == 2
        decoder.scheduler.advise(Advice(number=2))
        found.append(finished(decoder, generations))
        assert request.generation is not None
        found[-1].append(request.generation.tokens)
    assert found[0] == found[1]
    assert sum(ahead[: len(ahead) // 2]) >= 4
    assert sum(ahead[len(ahead) // 2 :]) == 0


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_whoever_has_to_wait_for_an_end_keeps_no_step_from_launched(model: Any, backend: str) -> None:
    """As where more is asked for than can run, which is when a step counts most."""
    found = []
    for run_ahead in WAYS:
        decoder = started(model, backend, run_ahead, max_sequences=6, max_running=3, max_tokens=400)
        requests = [decoder.submit(prompt, max_new_tokens=8) for prompt in PROMPTS[:2]]
        generations = list(decoder.running)
        launches(decoder, WARM)
        assert len(decoder.scheduler.waiting) == 2
        assert launches(decoder, 10) == (10 if run_ahead else 0)
        tokens = finished(decoder, generations)
        found.append([*tokens, *(r.generation.tokens for r in requests if r.generation is not None)])
    assert found[0] == found[1]
    assert [len(tokens) for tokens in found[0]] == [STEPS] * 3 + [8] * 2


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_advice_holds_from_the_step_behind_the_one_that_was_launched(model: Any, backend: str) -> None:
    decoder = started(model, backend, True)
    launches(decoder, WARM)
    decoder.scheduler.advise(Advice(number=1, concurrency=1))
    ran = []
    for _ in range(3):
        decoder.step()
        ran.append(len(decoder.running))
    assert ran == [3, 1, 1]
    decoder.close()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("backend", GPU_NAMES)
def test_advice_at_any_time_changes_no_token(model: Any, backend: str, seed: int) -> None:
    """Sequences pause and go on, slots are held and given back, steps go ahead or wait, and a text ends in between."""
    reference, draw = reference_of(model, backend), np.random.default_rng(seed)
    pool, ahead = SMALLEST + 100, 0
    decoder = started(model, backend, True, first_stop(reference), max_running=3, hbm_pages=pool)
    generations = list(decoder.running)
    launches(decoder, WARM)
    while any(not generation.finished for generation in generations):
        if draw.random() < 0.25:
            slots = [None, 1, int(draw.integers(1, pool)), 1 << 30][draw.integers(4)]
            decoder.scheduler.advise(Advice(number=1, concurrency=int(draw.integers(1, 5)), hot_slots=slots))
        ahead += launches(decoder, 1)
    assert ahead > 5
    decoder.scheduler.advise(Advice(number=2))
    tokens = finished(decoder, generations)
    assert tokens[1] == reference[1][: len(tokens[1])]
    assert [generation.finished for generation in generations][1] == "stop"
    for one, other in zip(tokens, reference, strict=True):
        assert one[: len(other)] == other[: len(one)]


class Asking(Listener):
    """Asks for a snapshot when told to, until it comes, as a daemon does behind a gap."""

    asks = False

    def snapshot_wanted(self) -> bool:
        return self.asks and not any(isinstance(message, Snapshot) for message in self.heard)


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_a_snapshot_shows_the_pool_as_of_its_epoch(model: Any, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, listener = started(model, backend, True), Asking()
    decoder.steering = listener
    launches(decoder, WARM)
    assert decoder.steps.launched
    listener.asks = True
    launches(decoder, 6)
    monkeypatch.setattr(decoder, "_goes_on", lambda batch: False)
    # Until a step that opens no tail behind its message.
    while launches(decoder, 1) or any(g.sequence.next_group is not None for g in decoder.running):
        pass
    resident = set(decoder.kv.manager.resident_pages().tolist())
    decoder.steps.close()
    snapshot = next(message for message in listener.heard if isinstance(message, Snapshot))
    steps = [step for step in listener.steps if step.epoch > snapshot.epoch]
    assert steps, "it came too late to tell"
    shown = set(snapshot.resident.tolist())
    for step in steps:
        shown = (shown | set(step.loaded.tolist())) - set(step.evicted.tolist())
    assert shown == resident
    decoder.close()


@pytest.mark.parametrize("backend", ["cpu", *GPU_NAMES])
@pytest.mark.parametrize(
    "options", [{"run_ahead": False}, {"graphs": False}, {"lookahead": 1}, {"disk_dir": "here"}, {"sampled": True}]
)
def test_steps_that_cannot_be_foreseen_or_replayed_wait(
    model: Any, backend: str, options: dict[str, Any], tmp_path: Any
) -> None:
    config = {**BASE, "max_sequences": 1, **options}
    sampling = Sampling(temperature=1.0) if config.pop("sampled", False) else None
    if "disk_dir" in options:
        config |= {"disk_dir": tmp_path, "host_pages": 200}
    decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**config))
    decoder.open(PROMPTS[0], max_new_tokens=WARM + 4, sampling=sampling)
    assert launches(decoder, WARM + 3) == 0
    decoder.close()
