"""Lookahead inside real decodes: queries and ranks are right, tokens never change, features are the trainer's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from lookahead_kit import LANES, PROMPT, K, Trainer, decoder_of, learn, logged, message, run, steer, two

from hotset.kernels.page_features.state import CHURN, TURNOVER
from hotset.kernels.state import FILLING
from hotset.protos.device_features import DEVICE_FEATURES_HASH
from hotset.protos.device_model import DeviceModel
from hotset.protos.lookahead import SAFE_PROBABILITY
from hotset.protos.messages import (
    Ack,
    Attach,
    Heartbeat,
    Hello,
    LayerFigure,
    Message,
    Step,
)
from hotset.protos.messages import Lookahead as Steer
from hotset.protos.transport import MemoryServer
from hotset.protos.wire import decode, encode
from hotset.runtime.decoder import Decoder
from hotset.runtime.host_link import HostLink
from hotset.runtime.link import ControlLink
from hotset.runtime.lookahead.book import FeaturePage
from hotset.runtime.lookahead.estimate import QueryEstimate
from hotset.runtime.lookahead.price import LinkPrice
from hotset.runtime.lookahead.ranks import rank_pages
from hotset.runtime.passes import DecodePass
from hotset.runtime.steering import LinkSteering


@pytest.fixture
def made() -> Iterator[Callable[..., Decoder]]:
    """Decoders that are closed in the end: they leave hooks on the shared model until then."""
    opened: list[Decoder] = []

    def make(model: Any, **options: Any) -> Decoder:
        opened.append(decoder_of(model, **options))
        return opened[-1]

    yield make
    for decoder in opened:
        decoder.close()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("family", ["Llama", "Qwen2", "Qwen3", "Mistral"])
def test_the_estimate_of_a_layers_own_input_is_its_query(
    family: str,
    fused: bool,
    make_model: Callable[..., Any],
    made: Callable[..., Decoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    decoder = made(make_model(family), lookahead=1, lookahead_prefetch="off")
    assert decoder.ahead is not None
    estimate, wanted, attend = decoder.ahead.estimate, {}, DecodePass.attend

    def enter(done: Any, layer: int, hidden: torch.Tensor, rotary: Any) -> None:
        if isinstance(done, DecodePass):
            wanted[layer] = estimate.query(layer, hidden, rotary)

    def check(self: DecodePass, layer: int, query: torch.Tensor, scale: float) -> torch.Tensor:
        torch.testing.assert_close(wanted[layer][0], query[:, :, 0])
        assert wanted.pop(layer)[1] == scale
        return attend(self, layer, query, scale)

    monkeypatch.setattr(DecodePass, "attend", check)
    monkeypatch.setattr(decoder.ahead, "_enter", enter)
    decoder.ahead.estimate.close()
    decoder.ahead.estimate = estimate = QueryEstimate(decoder.model, enter, fused=fused)
    assert estimate.fused == fused
    two(decoder)
    decoder.step()
    assert not wanted


def test_ranks_begin_with_what_every_selection_holds() -> None:
    mass = torch.tensor([[[0.1, 0.5, 0.2, 0.5, 0.0, 0.3, 9.0]], [[0.3, 0.2, 0.1, 0.0, 0.0, 0.0, 0.0]]])
    ranks = rank_pages(mass, torch.tensor([6, 3], dtype=torch.int32), recent=1, width=5)
    assert ranks[0, 0].tolist() == [0, 5, 1, 3, 2]
    assert ranks[1, 0].tolist() == [0, 2, 1, -1, -1]


M = TypeVar("M", bound=Message)

WAYS: list[dict[str, Any]] = [
    {"lookahead": 1, "lookahead_prefetch": "off"},
    {"lookahead": 1},
    {"lookahead": 2, "lookahead_prefetch": "bare"},
    {"lookahead": 1, "lookahead_prefetch": "bare", "link_gbps": 0.02},
]


@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_tokens_never_depend_on_it(family: str, make_model: Callable[..., Any], made: Callable[..., Decoder]) -> None:
    model = make_model(family)
    plain = made(model)
    expected, misses = run(plain), plain.kv.manager.moved.demand_pages
    for options in WAYS:
        decoder = made(model, **options)
        assert run(decoder) == expected, options
        if options.get("lookahead_prefetch") == "bare":
            assert decoder.kv.manager.moved.prefetched_hits > 0
            # What enters the layers of the other random model tells little of later queries.
            assert family != "Llama" or decoder.kv.manager.moved.demand_pages < misses
        decoder.close()


def test_a_closed_decoder_leaves_no_hook_behind(model: Any) -> None:
    def hooks() -> list[int]:
        return [len(layer._forward_pre_hooks) for layer in model.model.layers]

    # The model is shared with decoders of other tests.
    before = hooks()
    decoder = decoder_of(model, lookahead=1)
    assert hooks() == [count + 1 for count in before]
    decoder.close()
    assert hooks() == before


def test_features_inside_a_decode_are_the_trainers_on_its_log(
    model: Any, made: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[torch.Tensor] = []
    ranked = FeaturePage.ranked

    def remember(self: FeaturePage, layer: int, ranks: torch.Tensor) -> torch.Tensor:
        seen.append(ranked(self, layer, ranks))
        return seen[-1]

    monkeypatch.setattr(FeaturePage, "ranked", remember)
    decoder = made(model, lookahead=1)
    steps = logged(decoder, 20)
    assert decoder.ahead is not None
    assert decoder.ahead.book is not None
    pages = int(max(step.candidates.max() for step in steps)) + 1
    words = decoder.ahead.book.state.words.view(-1, LANES, 4)
    for row in range(2):
        trainer = Trainer(pages)
        for t, step in enumerate(steps):
            lanes, places, rows, _ = trainer.step(t, step, row)
            # Layers 1 and 2 are ranked in a step, as 0 and 1 begin.
            mine = torch.cat([columns[:, row] for columns in seen[2 * t : 2 * t + 2]], 1).permute(1, 2, 0)
            np.testing.assert_allclose(mine[lanes - 2, places].numpy(), rows, rtol=1e-5, atol=1e-5)
        groups = decoder.kv.sequences[row].groups
        np.testing.assert_array_equal(words[groups].transpose(0, 1).numpy(), trainer.state.words[:, : len(groups)])


@pytest.fixture(scope="module")
def trained(model: Any) -> Iterator[DeviceModel]:
    decoder = decoder_of(model, lookahead=1)
    yield learn(logged(decoder, 60))
    decoder.close()


@pytest.mark.parametrize("options", [{}, {"link_gbps": 0.02}, {"lookahead": 2}])
def test_a_model_of_its_own_log_saves_misses_and_changes_no_token(
    options: dict[str, Any], trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    plain, learned = made(model, lookahead=1), made(model, **({"lookahead": 1} | options))
    assert learned.ahead is not None
    assert learned.ahead.take_model(message(trained.to_bytes())) == ""
    assert run(learned, 60) == run(plain, 60)
    with_model, without = learned.kv.manager.moved, plain.kv.manager.moved
    assert without.prefetch_pages == 0
    assert with_model.prefetched_hits > 0
    assert with_model.demand_pages < 0.9 * without.demand_pages


def test_a_model_values_the_candidates_of_each_step(
    trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    decoder = made(model, lookahead=1)
    assert decoder.ahead is not None
    two(decoder)
    decoder.step()
    state = decoder.kv.manager.state
    assert not bool((state.value_until > state.tick).any())
    decoder.ahead.take_model(message(trained.to_bytes()))
    decoder.step()
    assert decoder.last_pass is not None
    pages, _ = decoder.last_pass.candidate_heat(margins=False)
    slots = state.slot_of[pages[state.slot_of[pages] >= 0]].long()
    assert bool((state.value_until[slots] > state.tick).all())
    assert len(torch.unique(state.value[slots])) > 10


@pytest.mark.parametrize("fork", [False, True])
def test_a_sequence_that_shares_pages_counts_on_from_the_older_one(
    fork: bool, trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    tokens = []
    for options in ({}, {"lookahead": 1}):
        decoder = made(model, prefill_chunk=32, **options)
        first = decoder.open(PROMPT, max_new_tokens=20)
        for _ in range(5):
            decoder.step()
        second = decoder.fork(first, max_new_tokens=10) if fork else decoder.open(PROMPT, max_new_tokens=10)
        assert second.sequence.clock == 5
        if decoder.ahead is not None:
            assert decoder.ahead.take_model(message(trained.to_bytes())) == ""
        decoder.step()
        decoder.step()
        if decoder.ahead is not None and decoder.ahead.book is not None:
            view = decoder.ahead.book.state.view[:, :, [TURNOVER, CHURN]]
            assert not bool(view.isnan().any())
        for _ in decoder.run():
            decoder.kv.check_integrity()
        tokens.append((first.tokens, second.tokens))
        decoder.close()
    assert tokens[0] == tokens[1]


def test_what_is_wrong_with_a_model_is_said_and_the_old_one_stays(
    trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    decoder = made(model, lookahead=1)
    assert decoder.ahead is not None
    heads, data = decoder.ahead.heads, trained.to_bytes()
    foreign = DeviceModel(trained.value, replace(trained.use, features_hash="0" * 64)).to_bytes()
    assert heads.take(message(data, 1, trained=1000)) == ""
    wrong = {
        "corrupt: the bytes do not have": message(data, 2, sha256="0" * 64),
        "corrupt: device model": message(data[:-8], 3),
        "foreign: ": message(foreign, 4),
        "stale: ": message(data, 5, trained=999),
    }
    for reason, pushed in wrong.items():
        assert heads.take(pushed).startswith(reason)
        assert heads.version == "v1"
    assert heads.take(message(data, 6, trained=999, rollback=True)) == ""
    assert heads.version == "v6"
    # One without bytes takes it back, and then an older one is as good as any.
    tables = heads.tables
    assert heads.take(message(b"", 7)) == ""
    assert (heads.version, heads.use, heads.value, heads.tables) == ("", None, None, tables + 1)
    assert heads.take(message(data, 8, trained=5)) == ""
    off = made(model, lookahead=1, lookahead_prefetch="bare")
    assert off.ahead is not None
    assert off.ahead.take_model(message(data)).startswith("unsupported")


class Peer:
    """A daemon's end of the link to `decoder`."""

    def __init__(self, decoder: Decoder) -> None:
        assert decoder.ahead is not None
        server = MemoryServer()
        link = ControlLink(
            model="tiny", geometry=decoder.kv.geometry, builtin_policy="lru", transport=server,
            in_step=decoder.ahead.in_step,
        )  # fmt: skip
        decoder.steering = LinkSteering(link, lifetime=16)
        self.client, self.decoder, self._sent = server.connect(), decoder, 0
        self.say(Attach(peer="test", pid=1))
        self.hello = self.hear(Hello)

    def say(self, message: Message) -> None:
        self._sent += 1
        assert self.client.send(encode(message, self._sent))

    def hear(self, kind: type[M], of: str = "") -> M:
        while (frames := self.client.receive(5.0)) is not None:
            message = decode(frames)[1]
            if isinstance(message, kind) and getattr(message, "of", of) == (of or getattr(message, "of", of)):
                return message
        raise AssertionError(f"no {kind.__name__} came")

    def ask(self, message: Message) -> Ack:
        """Send, let the decoder take a step, and return what it says to it."""
        self.say(message)
        self.say(Heartbeat())
        self.hear(Ack, of="heartbeat")
        self.decoder.step()
        return self.hear(Ack, of=str(getattr(message, "type", "")))


def test_a_daemon_swaps_the_model_between_steps_and_hears_why_not(
    trained: DeviceModel, model: Any, made: Callable[..., Decoder]
) -> None:
    decoder, data = made(model, lookahead=1), trained.to_bytes()
    peer = Peer(decoder)
    two(decoder)
    assert peer.hello.in_step.models
    assert peer.hello.in_step.use_features == DEVICE_FEATURES_HASH
    decoder.step()
    step = peer.hear(Step)
    assert list(step.lookahead) == [1]
    assert step.lookahead_1.shape == (2 * LANES, 2 * K)
    assert step.stats.device_model == ""
    assert peer.ask(message(data, 1)).accepted
    assert peer.hear(Step).stats.device_model == "v1"
    refused = peer.ask(message(data, 2, sha256="0" * 64))
    assert (refused.accepted, refused.number) == (False, 2)
    assert refused.reason.startswith("corrupt")
    assert peer.hear(Step).stats.device_model == "v1"
    assert peer.ask(steer(distance=[-1, 2, 2])).accepted
    assert list(peer.hear(Step).lookahead) == [2]


def test_steering_holds_for_its_steps(model: Any, made: Callable[..., Decoder]) -> None:
    decoder = made(model, lookahead=1, lookahead_prefetch="bare")
    ahead, figures = decoder.ahead, decoder.kv.manager.figures
    assert ahead is not None
    two(decoder)
    for _ in range(4):
        decoder.step()
    assert ahead.follow(steer(distance=[-1, 0, 2], pages=[-1, -1, 1]), decoder.epoch) == ""
    begun = []
    for _ in range(4):
        decoder.step()
        begun.append(figures.now[LayerFigure.STEP_PAGES].tolist())
        decoder.kv.check_integrity()
        if len(begun) <= 2:
            assert figures.now[LayerFigure.DISTANCE].tolist() == [0, 0, 2]
            assert begun[-1][1] == 0
            assert begun[-1][2] <= 1
    assert figures.now[LayerFigure.DISTANCE].tolist() == [0, 1, 1]
    assert "steers 2 layers" in ahead.follow(
        Steer(number=2, distance=np.zeros(2, "|i1"), least=np.zeros(2, "<f4"), pages=np.zeros(2, "<i4")), 0
    )


def test_a_full_link_raises_the_threshold_until_nothing_pays() -> None:
    link = HostLink(0.01)
    price = LinkPrice(link, 4096, taken=lambda: link.busy_seconds)
    silent = torch.full((1,), float("nan"))
    assert float(price.least(silent)) == SAFE_PROBABILITY
    found = []
    for busy in (0.2, 0.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        link.busy_seconds += busy * 0.1
        price.end_step(0.1)
        found.append(float(price.least(silent)))
    assert found == sorted(found)
    assert found[0] == SAFE_PROBABILITY
    assert found[-1] > 1.0
    assert float(price.least(torch.tensor([0.9]))) > 1.0


def test_every_prefetch_is_used_or_wasted_or_still_there(model: Any, made: Callable[..., Decoder]) -> None:
    decoder = made(model, lookahead=1, lookahead_prefetch="bare", link_gbps=0.01)
    two(decoder)
    manager, total = decoder.kv.manager, torch.zeros(len(LayerFigure), 3, dtype=torch.int64)
    for _ in range(20):
        decoder.step()
        total += manager.figures.now
    begun, used, wasted = (int(total[row].sum()) for row in (2, 4, 6))
    there = int(manager.state.prefetched.sum() + (manager.state.state == FILLING).sum())
    assert begun == manager.moved.prefetch_pages > 0
    assert begun == used + wasted + there
    assert int(total[LayerFigure.DEMAND_PAGES].sum()) == manager.moved.demand_pages
    assert total[LayerFigure.COPY_STALL_US].sum() > 0
