"""Tails that a device opens while it computes the step before their first token."""

from __future__ import annotations

from typing import Any

import pytest
from backend_kit import placed

from hotset.kernels.held import held_level
from hotset.protos.errors import CapacityError
from hotset.protos.messages import Advice
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.generation import Generation
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.groups import Sequence

PAGE, LANES = 4, 6
OPTIONS: dict[str, Any] = {"page_size": PAGE, "selected": 4, "recent": 1, "max_tokens": 80, "max_sequences": 2,
                           "prefill_chunk": 16, "hbm_pages": 60}  # fmt: skip
PROMPT = [(5 * i) % 97 for i in range(2 * PAGE - 1)]
"""The token after its first decoded one begins a page."""


def opened(model: Any, backend: str = "inline", **options: Any) -> tuple[Decoder, Generation]:
    decoder = Decoder(**placed(model, backend), config=RuntimeConfig.checked(**{**OPTIONS, **options}))
    return decoder, decoder.open(PROMPT, max_new_tokens=3 * PAGE)


def finished(decoder: Decoder, generation: Generation) -> list[int]:
    """Its tokens; nothing is left behind."""
    for _ in decoder.run():
        decoder.kv.check_integrity()
    kv = decoder.kv
    assert kv.groups.free_groups == len(kv.groups.references)
    decoder.close()
    return generation.tokens


@pytest.fixture(scope="module")
def expected(model: Any) -> list[int]:
    return finished(*opened(model, "cpu"))


def is_open(decoder: Decoder, sequence: Sequence) -> bool:
    """Whether the next tail is open; in any case, all is as it should be."""
    decoder.kv.check_integrity()
    return sequence.next_group is not None


def test_the_next_tail_is_open_before_its_first_token_and_no_other(model: Any, expected: list[int]) -> None:
    decoder, generation = opened(model)
    sequence, ahead = generation.sequence, []
    for _ in range(2 * PAGE):
        decoder.step()
        ahead.append(is_open(decoder, sequence))
        group = sequence.next_group
        if group is not None:
            assert (sequence.length % PAGE, group in sequence.groups) == (0, False)
            decoder.step()
            ahead.append(is_open(decoder, sequence))
            assert sequence.groups[-1] == group
    assert ahead.count(True) == len([n for n in range(8, 8 + len(ahead)) if n % PAGE == 0])
    assert finished(decoder, generation) == expected


def test_who_ends_with_a_page_opens_none(model: Any) -> None:
    decoder, _ = opened(model)
    generation = decoder.open(PROMPT, max_new_tokens=2)
    decoder.step()
    assert generation.sequence.length % PAGE == 0
    assert generation.sequence.next_group is None
    decoder.close()


def test_who_pauses_or_is_closed_gives_it_back(model: Any, expected: list[int]) -> None:
    decoder, generation = opened(model)
    other = decoder.open(PROMPT, max_new_tokens=3 * PAGE)
    decoder.step()
    assert is_open(decoder, generation.sequence)
    assert is_open(decoder, other.sequence)
    free, hot = decoder.kv.groups.free_groups, decoder.kv.manager.hot_slots()
    decoder.scheduler.advise(Advice(number=1, concurrency=1))
    decoder.scheduler.turn()
    assert other.sequence.parked is not None
    assert not is_open(decoder, other.sequence)
    assert decoder.kv.groups.free_groups == free + 1
    assert decoder.kv.manager.hot_slots() == hot + LANES
    decoder._finish(generation, "stop")
    decoder.kv.check_integrity()
    decoder.scheduler.advise(Advice(number=2))
    assert finished(decoder, other) == expected


def test_where_no_group_is_left_the_step_itself_says_so(model: Any) -> None:
    decoder, generation = opened(model, max_tokens=PAGE, max_sequences=1)
    decoder.step()
    assert generation.sequence.length == 2 * PAGE
    assert not is_open(decoder, generation.sequence)
    with pytest.raises(CapacityError, match="--max-tokens"):
        decoder.step()
    assert generation.finished is not None
    assert "page groups are in use" in generation.finished
    decoder.close()


def test_where_slots_are_held_a_tail_takes_the_place_of_a_sealed_one(model: Any, expected: list[int]) -> None:
    """For more than that held slots are needed, whose choice the host would wait for."""
    decoder, generation = opened(model)
    decoder.scheduler.advise(Advice(number=1, hot_slots=40))
    kv, sequence = decoder.kv, generation.sequence
    decoder.step()
    assert is_open(decoder, sequence)
    assert kv.manager.hot_slots() == 40
    held = held_level(kv.manager.state)
    assert held == 60 - 40 - LANES
    group, sequence.next_group = sequence.next_group, None
    kv.open_next([sequence])
    assert sequence.next_group is None
    sequence.next_group = group
    for _ in range(PAGE):
        decoder.step()
        assert (kv.manager.hot_slots(), held_level(kv.manager.state)) == (40, held)
    assert finished(decoder, generation) == expected


def test_steps_are_launched_ahead_where_slots_are_held(model: Any, expected: list[int]) -> None:
    decoder, generation = opened(model)
    decoder.scheduler.advise(Advice(number=1, hot_slots=40))
    ahead = []
    while not generation.finished:
        decoder.step()
        decoder.kv.check_integrity()
        ahead.append(decoder.steps.launched)
    assert sum(ahead) == len(expected) - 1 - 1 - WARM_UPS
    assert finished(decoder, generation) == expected


def test_where_no_slots_are_left_the_step_itself_opens_it(model: Any) -> None:
    small: dict[str, Any] = {"selected": 2, "max_sequences": 1, "hbm_pages": LANES + 2 * 2}
    decoder, generation = opened(model, **small)
    kv, sequence = decoder.kv, generation.sequence
    decoder.step()
    assert is_open(decoder, sequence)
    # Beside the tail that is open there is no room for another.
    group, sequence.next_group = sequence.next_group, None
    free = kv.groups.free_groups
    kv.open_next([sequence])
    assert sequence.next_group is None
    assert kv.groups.free_groups == free
    sequence.next_group = group
    assert finished(decoder, generation) == finished(*opened(model, "cpu", **small))


def test_a_host_opens_none(model: Any) -> None:
    decoder, generation = opened(model, "cpu")
    decoder.step()
    assert generation.sequence.length % PAGE == 0
    assert not is_open(decoder, generation.sequence)
    decoder.close()
