"""Lookahead inside the GPU backend's steps: the CPU backend's ranks, features and decisions, and the same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backend_kit import INTERPRETED, Listener, placed
from lookahead_kit import K, decoder_of, learn, logged, message, run, steer, two
from two_worlds import TwoWorlds

from hotset.kernels.dispatch import interpreting
from hotset.kernels.state import FILLING
from hotset.kernels.swap_in import swap_in
from hotset.protos.device_model import DeviceModel
from hotset.protos.errors import ConfigError
from hotset.protos.forest import FlatForest
from hotset.protos.messages import LayerFigure, Step
from hotset.runtime.decoder import Decoder
from hotset.runtime.gpu import Event, InlineDevice, Stream
from hotset.runtime.gpu.captured import WARM_UPS
from hotset.runtime.gpu.program import Program
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.gpu.steps import DeviceSteps
from hotset.runtime.lookahead.lookahead import LookaheadPass

GPU_NAMES = ["inline", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def made() -> Iterator[Callable[..., Decoder]]:
    """Decoders of a backend, which are closed in the end."""
    opened: list[Decoder] = []

    def make(model: Any, backend: str = "inline", **options: Any) -> Decoder:
        given = placed(model, backend)
        opened.append(decoder_of(given["model"], **({"device": given.get("device")} | options)))
        return opened[-1]

    yield make
    for decoder in opened:
        decoder.close()


@pytest.fixture(scope="module")
def trained(model: Any) -> Iterator[DeviceModel]:
    decoder = decoder_of(model, lookahead=1)
    yield learn(logged(decoder, 40))
    decoder.close()


def program(decoder: Decoder) -> Program:
    assert isinstance(decoder.steps, DeviceSteps)
    (found,) = decoder.steps.programs.values()
    return found


WAYS: list[dict[str, Any]] = [
    {"lookahead": 1, "lookahead_prefetch": "off"},
    {"lookahead": 1, "graphs": False},
    {"lookahead": 1, "lookahead_prefetch": "bare"},
    {"lookahead": 2, "lookahead_prefetch": "bare"},
    {"lookahead": 2, "lookahead_prefetch": "bare", "hbm_pages": 2 * (6 + 2 * K)},
]


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_tokens_never_depend_on_it(
    backend: str, trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    """Ranks alone, all that has no slot, a model's choice; in the smallest pool too, whose layers need every slot."""
    plain = made(model, backend)
    expected, misses = run(plain), plain.kv.manager.moved.demand_pages
    for options in WAYS:
        decoder = made(model, backend, **options)
        assert run(decoder) == expected, options
        assert program(decoder).captured == options.get("graphs", True), options
        moved = decoder.kv.manager.moved
        if options.get("lookahead_prefetch") == "bare" and "hbm_pages" not in options:
            assert moved.prefetched_hits > 0
            assert moved.demand_pages < misses
        else:
            assert moved.prefetch_pages == 0 or "hbm_pages" in options
    learned = made(model, backend, lookahead=1)
    assert learned.ahead is not None
    assert learned.ahead.take_model(message(trained.to_bytes())) == ""
    assert run(learned) == expected
    assert program(learned).captured
    assert learned.kv.manager.moved.prefetched_hits > 0
    assert learned.kv.manager.moved.demand_pages < misses


def seen(decoder: Decoder, steps: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Any], list[Step], Any]:
    """Probabilities of all that was ranked, the messages, and the words of the features."""
    found: list[torch.Tensor] = []
    probability = LookaheadPass._probability

    def remember(self: LookaheadPass, target: int) -> torch.Tensor | None:
        sure = probability(self, target)
        assert sure is not None
        found.append(sure.view(-1, 2, 2 * K)[:3].clone())
        return sure

    listener = Listener()
    decoder.steering = listener
    three = [*two(decoder), decoder.open(list(range(90)), max_new_tokens=24)]
    with monkeypatch.context() as patch:
        patch.setattr(LookaheadPass, "_probability", remember)
        for _ in range(steps):
            decoder.step()
    decoder.steps.close()
    assert decoder.ahead is not None
    assert decoder.ahead.book is not None
    groups = [sequence.groups for sequence in decoder.kv.sequences.values()]
    words = decoder.ahead.book.state.words.view(-1, 6, 4)
    return [*found, *(g.tokens for g in three)], listener.steps, [words[g] for g in groups]


def test_it_ranks_learns_and_decides_as_the_cpu_backend_does(
    trained: DeviceModel, model: Any, made: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three sequences, which both backends pad to four rows, so that matrix products round alike."""
    results = []
    for backend in ("cpu", "inline"):
        decoder = made(model, backend, lookahead=1, max_sequences=3)
        assert decoder.ahead is not None
        assert decoder.ahead.take_model(message(trained.to_bytes())) == ""
        results.append(seen(decoder, 12, monkeypatch))
    (sure, steps, words), (other_sure, other_steps, other_words) = results
    assert len(sure) == len(other_sure) == 12 * 2 + 3
    assert sure[-3:] == other_sure[-3:]
    assert all(torch.equal(one, two) for one, two in zip(sure[:-3], other_sure[:-3], strict=True))
    assert any(bool((one > 0.5).any()) for one in sure[:-3])
    assert all(torch.equal(one, two) for one, two in zip(words, other_words, strict=True))
    assert len(steps) == len(other_steps) == 12
    for one, two_ in zip(steps, other_steps, strict=True):
        assert list(one.lookahead) == list(two_.lookahead) == [1]
        np.testing.assert_array_equal(one.lookahead_1, two_.lookahead_1)
        np.testing.assert_array_equal(one.candidates, two_.candidates)
        assert (one.by_layer[LayerFigure.DISTANCE] == two_.by_layer[LayerFigure.DISTANCE]).all()


@pytest.mark.parametrize("backend", GPU_NAMES)
def test_figures_by_layer_add_up(backend: str, model: Any, made: Callable[..., Decoder]) -> None:
    decoder, listener = made(model, backend, lookahead=1, lookahead_prefetch="bare"), Listener()
    decoder.steering = listener
    two(decoder)
    for _ in range(20):
        decoder.step()
    decoder.steps.close()
    manager, total = decoder.kv.manager, np.sum([step.by_layer for step in listener.steps], axis=0)
    manager.check_mirrors()
    begun, used, wasted = (int(total[row].sum()) for row in (2, 4, 6))
    there = int(manager.state.prefetched.sum() + (manager.state.state == FILLING).sum())
    assert begun == manager.moved.prefetch_pages > 0
    assert used == manager.moved.prefetched_hits
    assert begun == used + wasted + there
    assert int(total[LayerFigure.DEMAND_PAGES].sum()) == manager.moved.demand_pages
    assert total[LayerFigure.STEP_PAGES, 0] == 0


class Forked(InlineDevice):
    """Copies of the stream `ahead` happen when the demand stream waits for them, and not before."""

    def __init__(self) -> None:
        super().__init__()
        self.late: list[tuple[Event, list[Callable[[], None]]]] = []
        self.copies: list[Callable[[], None]] = []
        self.joined = 0

    def mark(self, stream: Stream, *, sleep: bool = False) -> Event:
        event = super().mark(stream)
        if stream is Stream.AHEAD:
            self.late.append((event, self.copies))
            self.copies = []
        return event

    def wait(self, stream: Stream, event: Event) -> None:
        for entry in [entry for entry in self.late if entry[0] is event]:
            assert stream is Stream.DEMAND
            self.late.remove(entry)
            self.joined += 1
            for copy in entry[1]:
                copy()


@pytest.mark.parametrize("distance", [1, 2])
def test_nobody_reads_a_fork_before_it_has_joined_and_all_join(
    distance: int, model: Any, made: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Forked()
    expected = run(made(model))
    decoder = made(model, device=device, lookahead=distance, lookahead_prefetch="bare")
    late: Callable[..., None] = lambda *a, **more: device.copies.append(lambda: swap_in(*a, **more))  # noqa: E731
    monkeypatch.setattr("hotset.runtime.gpu.ahead.swap_in", late)
    opened = two(decoder)
    steps = 0
    while decoder.running:
        decoder.step()
        steps += 1
        assert device.late == []
        assert device.copies == []
        decoder.kv.check_integrity()
    assert [generation.tokens for generation in opened] == expected
    assert device.joined == steps * (3 - distance)


def larger(forest: FlatForest) -> FlatForest:
    """The same forest with all its trees twice over: of another size."""
    return replace(forest, roots=np.concatenate((forest.roots, forest.roots)), scale=forest.scale / 2)


def test_a_model_is_swapped_between_replays_and_a_graph_made_anew_where_it_must_be(
    trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    decoder, data = made(model, lookahead=1), trained.to_bytes()
    ahead = decoder.ahead
    assert ahead is not None
    two(decoder, 60)

    def steps() -> object:
        for _ in range(WARM_UPS + 1):
            decoder.step()
        assert program(decoder).captured
        return program(decoder)._pass._replay

    first = steps()
    assert ahead.take_model(message(data, 1)) == ""
    decoder.step()
    assert not program(decoder).captured
    second = steps()
    assert second is not first
    assert ahead.take_model(message(data, 2)) == ""
    assert ahead.take_model(message(data, 3, sha256="0" * 64)).startswith("corrupt")
    assert ahead.heads.version == "v2"
    assert steps() is second
    both = DeviceModel(larger(trained.value), larger(trained.use)).to_bytes()
    assert ahead.take_model(message(both, 4)) == ""
    third = steps()
    assert third is not second
    assert ahead.follow(steer(least=[0.9] * 3, pages=[-1, 3, 3]), decoder.epoch) == ""
    assert steps() is third
    assert ahead.follow(steer(distance=[-1, 0, 2]), decoder.epoch) == ""
    decoder.step()
    assert not program(decoder).captured


def test_pages_on_disk_are_left_there(model: Any, made: Callable[..., Decoder], tmp_path: Path) -> None:
    decoder = made(model, host_pages=120, disk_dir=tmp_path, lookahead=1, lookahead_prefetch="bare")
    assert run(decoder) == run(made(model))
    disk = decoder.kv.manager.backing.disk
    assert disk is not None
    assert disk.stats.rows_read > 0
    assert decoder.kv.manager.moved.prefetched_hits > 0


def test_a_timed_link_that_is_full_takes_no_prefetch(model: Any, made: Callable[..., Decoder]) -> None:
    decoder = made(model, lookahead=1)
    manager, ahead = decoder.kv.manager, decoder.ahead
    assert isinstance(manager, DeviceResidency)
    assert ahead is not None
    silent = torch.full((1,), float("nan"))
    assert float(ahead.price.least(silent)) == 0.5
    for _ in range(12):
        manager._link_time += 0.1
        ahead.end_step(0.1)
    assert float(ahead.price.least(silent)) > 1.0


def test_without_tiers_there_is_nothing_to_look_ahead_for(model: Any) -> None:
    hooks = [len(layer._forward_pre_hooks) for layer in model.model.layers]
    with pytest.raises(ConfigError, match="--lookahead off"):
        decoder_of(model, device=InlineDevice(), tiered=False, lookahead=1)
    assert [len(layer._forward_pre_hooks) for layer in model.model.layers] == hooks


@pytest.mark.skipif(not INTERPRETED, reason="Triton compiles here, so it cannot interpret as well")
@pytest.mark.parametrize("way", ["bare", "learned"])
def test_with_its_kernels_the_worlds_stay_apart_and_no_step_waits(
    way: str, trained: DeviceModel, make_model: Callable[..., Any]
) -> None:
    device, listener = TwoWorlds(), Listener()
    with interpreting(), device.watching():
        small = make_model(num_hidden_layers=2)
        for tensor in (*small.parameters(), *small.buffers()):
            device.watch.adopt(tensor)
        sizes = {"page_size": 2, "selected": 4, "recent": 1, "max_tokens": 80, "prefill_chunk": 8, "hbm_pages": 52}
        decoder = decoder_of(small, device=device, lookahead=1, lookahead_prefetch=way, **sizes)
        assert decoder.ahead is not None
        decoder.open([7 * i % 97 for i in range(25)], max_new_tokens=6)
        decoder.open(list(range(20, 43)), max_new_tokens=6)
        decoder.steering = listener
        if way == "learned":
            assert decoder.ahead.take_model(message(trained.to_bytes())) == ""
        for _ in range(WARM_UPS + 2):
            device.watch.strict = True
            decoder.step()
            device.watch.strict = False
        assert program(decoder).captured
        decoder.close()
    assert [step.lookahead_1.shape for step in listener.steps] == [(8, 8)] * (WARM_UPS + 2)
    assert way == "learned" or decoder.kv.manager.moved.prefetch_pages > 0
