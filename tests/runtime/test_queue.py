"""More prompts than run at once: whoever waits, pauses or runs beside a sequence, its tokens are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hotset.kernels.held import held_level
from hotset.protos.errors import CapacityError, ConfigError
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, Request
from hotset.runtime.passes import DecodePass
from hotset.runtime.sampling import Sampling
from hotset.runtime.steering import Steering

PROMPTS = [[(7 * i + 3 * p) % 97 for i in range(24 + 5 * p)] for p in range(6)]
BASE: dict[str, Any] = {"page_size": 4, "selected": 6, "recent": 2, "max_tokens": 500, "max_sequences": 6,
                        "max_running": 3, "prefill_chunk": 16}  # fmt: skip
LANES, SELECTION = 6, 12
SMALLEST = 3 * (LANES + SELECTION)


def submit_all(decoder: Decoder, steps: int = 14) -> list[Request]:
    return [
        decoder.submit(p, max_new_tokens=steps + 2 * i, sampling=Sampling(0.8 * (i % 2), seed=i))
        for i, p in enumerate(PROMPTS)
    ]


def tokens_of(requests: list[Request]) -> list[list[int]]:
    assert all(r.generation is not None and r.generation.finished == "length" for r in requests)
    return [r.generation.tokens for r in requests if r.generation is not None]


@pytest.fixture(scope="module")
def one_by_one(model: Any) -> list[list[int]]:
    """Each prompt decoded with nobody beside it, everything resident."""
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_fraction": 1.0}))
    decoder.scheduler.advise(Advice(number=1, concurrency=1))
    requests = submit_all(decoder)
    assert all(report.sequences == 1 for report in decoder.run())
    decoder.close()
    return tokens_of(requests)


def test_those_that_wait_start_when_others_end(model: Any, one_by_one: list[list[int]]) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": SMALLEST}))
    requests = submit_all(decoder)
    reports = []
    for report in decoder.run():
        decoder.kv.check_integrity()
        reports.append(report)
    decoder.close()
    assert tokens_of(requests) == one_by_one
    assert max(r.sequences for r in reports) == 3
    assert reports[0].waiting == 3
    assert reports[-1].waiting == 0
    assert decoder.kv.groups.free_groups == len(decoder.kv.groups.references)


def test_advice_that_is_there_before_the_first_step_holds_for_it(model: Any) -> None:
    class Waiting(Steering):
        def heed(self) -> None:
            decoder.scheduler.advise(Advice(number=1, concurrency=2))

    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": SMALLEST}))
    decoder.steering = Waiting()
    submit_all(decoder)
    assert {report.sequences for report in decoder.run()} == {1, 2}
    decoder.close()


@pytest.mark.parametrize("seed", range(4))
def test_tokens_do_not_depend_on_advice(model: Any, one_by_one: list[list[int]], seed: int) -> None:
    """Random advice before every third step or so, hot slots from absurdly few to absurdly many."""
    pool = [SMALLEST, 70, 110, 400][seed]
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": pool}))
    random = np.random.default_rng(seed)
    requests, paused, sizes = submit_all(decoder), 0, set()
    for report in decoder.run():
        decoder.kv.check_integrity()
        paused += report.paused
        sizes.add(report.hot_slots)
        if random.random() < 0.4:
            decoder.scheduler.advise(random_advice(random, report.epoch, pool))
    decoder.close()
    assert tokens_of(requests) == one_by_one
    assert paused > 0
    assert len(sizes) > 3 or pool == SMALLEST


def random_advice(random: np.random.Generator, number: int, pool: int) -> Advice:
    return Advice(
        number=number,
        concurrency=[None, 1, 2, 3, 60000][random.integers(5)],
        admit_every=[None, 1, 5, 1 << 20][random.integers(4)],
        hot_slots=[None, 1, int(random.integers(1, pool + 1)), pool, (1 << 31) - 1][random.integers(5)],
        groups=[random.integers(0, 9, 3).tolist() for _ in range(random.integers(3))],
    )


def test_a_row_of_a_step_does_not_depend_on_the_rows_beside_it(model: Any) -> None:
    """Bit for bit, not only token for token; with 1 to 5 sequences beside it."""
    found = []
    for others in range(6):
        decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "max_running": 6, "hbm_fraction": 1.0}))
        generations = [decoder.open(p, max_new_tokens=9) for p in [PROMPTS[-1], *PROMPTS[:others]]]
        sequences = [g.sequence for g in generations]
        for sequence in sequences:
            decoder.kv.begin_token(sequence)
        done = DecodePass(decoder.kv, sequences, decoder.selector, lambda: None)
        places = [[s.length - 1] for s in sequences]
        with torch.inference_mode():
            logits = decoder.forward(done, [[5]] * len(sequences), places, max(s.length for s in sequences))
        found.append(logits[0])
        decoder.close()
    assert all(torch.equal(found[0], row) for row in found[1:])


def test_a_smaller_hot_set_is_real_and_grows_back(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": 200}))
    submit_all(decoder, steps=30)
    decoder.scheduler.advise(Advice(number=1, concurrency=2, hot_slots=60))
    few = [decoder.step() for _ in range(8)]
    resident = decoder.kv.manager.resident_pages().numel()
    assert {r.hot_slots for r in few} <= set(range(60, 60 + 2 * LANES + 1))
    assert resident <= 60 + 2 * LANES * 2
    decoder.scheduler.advise(Advice(number=2))
    many = [decoder.step() for _ in range(8)]
    assert decoder.kv.manager.resident_pages().numel() > resident
    assert many[-1].hot_slots == 0
    assert held_level(decoder.kv.manager.state) == 0
    decoder.close()


def test_what_the_hot_set_leaves_decides_how_many_start(model: Any) -> None:
    """200 slots, 182 of them hot: tails for three; 188: for two. What runs already is never put out by hot_slots."""
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": 200}))
    submit_all(decoder, steps=30)
    decoder.scheduler.advise(Advice(number=1, hot_slots=188))
    assert decoder.step().sequences == 2
    decoder.scheduler.advise(Advice(number=2, hot_slots=182))
    assert decoder.step().sequences == 3
    note = decoder.scheduler.advise(Advice(number=3, hot_slots=199))
    assert note == "hot_slots 199 lowered to 182, which the tails of 3 sequences leave"
    assert decoder.step().sequences == 3
    assert decoder.scheduler.advise(Advice(number=4, hot_slots=7, concurrency=2)).endswith("decode 2 sequences")
    assert decoder.scheduler.hot_slots == 2 * SELECTION
    assert "can run" in decoder.scheduler.advise(Advice(number=5, concurrency=9))
    decoder.close()


def test_new_tails_take_held_slots_and_evict_nobody(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": 120}))
    submit_all(decoder, steps=30)
    decoder.scheduler.advise(Advice(number=1, concurrency=1, hot_slots=40))
    for _ in range(4):
        decoder.step()
    before = set(decoder.kv.manager.resident_pages().tolist())
    decoder.open([5] * 9, max_new_tokens=3)
    assert before <= set(decoder.kv.manager.resident_pages().tolist())
    decoder.kv.check_integrity()
    decoder.close()


def test_a_paused_sequence_has_no_tail_slots_and_may_be_forked_and_closed(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": 200, "max_sequences": 7}))
    requests = submit_all(decoder, steps=30)
    for _ in range(3):
        decoder.step()
    decoder.scheduler.advise(Advice(number=1, concurrency=1))
    assert decoder.step().paused == 2
    parent = requests[2].generation
    assert parent is not None
    assert parent.sequence.parked is not None
    child = decoder.fork(parent, max_new_tokens=40)
    decoder.kv.check_integrity()
    decoder.scheduler.advise(Advice(number=2))
    for _ in decoder.run():
        decoder.kv.check_integrity()
    assert child.tokens[: len(parent.tokens)] == parent.tokens
    decoder.close()


def test_a_sequence_opened_beside_a_full_batch_pauses(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": SMALLEST}))
    generations = [decoder.open(p, max_new_tokens=6) for p in PROMPTS]
    assert len(decoder.running) == 3
    decoder.kv.check_integrity()
    assert {r.sequences for r in decoder.run()} == {3}
    assert all(len(g.tokens) == 6 for g in generations)
    decoder.close()


def test_a_request_waits_until_its_whole_length_has_room(model: Any) -> None:
    """Two fit in the page table to their ends, the third only when one of them has gone; nobody ends with capacity."""
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "max_tokens": 80, "hbm_fraction": 1.0}))
    requests = [decoder.submit(PROMPTS[0], max_new_tokens=24) for _ in range(3)]
    assert {r.sequences for r in decoder.run()} == {2, 1}
    tokens_of(requests)
    with pytest.raises(CapacityError, match="--max-tokens"):
        decoder.submit(PROMPTS[0], max_new_tokens=1000)
    with pytest.raises(ConfigError, match="at least one token"):
        decoder.submit([], max_new_tokens=1)
    with pytest.raises(CapacityError, match="submit a prompt"):
        decoder.step()
    decoder.close()


def test_capacity_is_what_advice_must_fit(model: Any) -> None:
    decoder = Decoder(model, None, RuntimeConfig.checked(**{**BASE, "hbm_pages": 200}))
    capacity = decoder.scheduler.capacity
    page = decoder.kv.geometry.page_bytes
    assert (capacity.device, capacity.max_sequences, capacity.least_slots) == ("cpu", 3, 3 * SELECTION)
    assert (capacity.hbm_bytes, capacity.sequence_bytes) == (200 * page, LANES * page)
    most = (capacity.hbm_bytes - 3 * capacity.sequence_bytes) // page
    assert decoder.scheduler.advise(Advice(number=1, concurrency=3, hot_slots=most)) == ""
    assert decoder.scheduler.advise(Advice(number=2, concurrency=3, hot_slots=capacity.least_slots)) == ""
    decoder.close()
