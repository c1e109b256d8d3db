"""page_features: kernel and reference hold the bits of the predictor's device state, and give its rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from hotset.kernels import page_features
from hotset.kernels.page_features import (
    PageFeatures,
    Place,
    compiled,
    lookahead_columns,
    observe,
    page_columns,
    reference,
)
from hotset.kernels.page_features.state import CHURN, LOWEST, THRESHOLD, TURNOVER
from hotset.predictor.device import DeviceState, new_device_state
from hotset.predictor.device.lookahead import DeviceLookahead, new_device_lookahead
from hotset.predictor.trace import SequenceTrace, read_trace
from hotset.protos.device_features import DEVICE_FEATURES, PAGE_FEATURES
from hotset.protos.features import Feature
from hotset.protos.trace import TraceMeta

SAMPLE = Path(__file__).parents[1] / "data" / "sample.parquet"
# Rows of the lane tables and sequences of the batch stand in another order, as after some have ended.
ROWS = 4
Features = tuple[Feature, ...]


class Side(NamedTuple):
    """One implementation under test: its state, and where it keeps the sequences."""

    state: PageFeatures
    groups_of: torch.Tensor
    rows: torch.Tensor
    device: str

    def place(self, meta: TraceMeta, layer: int, step: int) -> Place:
        steps = torch.full((len(self.rows),), step, dtype=torch.int32, device=self.device)
        return Place(self.groups_of, self.rows, steps, layer, meta.kv_heads)

    def put(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


def make_side(sequences: list[SequenceTrace], meta: TraceMeta, device: str) -> Side:
    torch.manual_seed(0)
    pages = max(s.page_count for s in sequences)
    groups = torch.randperm(pages * len(sequences) + 5)[: pages * len(sequences)].int().view(len(sequences), pages)
    for row, sequence in zip(groups, sequences, strict=True):
        row[sequence.page_count :] = -1
    ranks = sequences[0].lookahead[1].shape[2]
    state = PageFeatures.create(
        groups=pages * len(sequences) + 5, lanes=meta.layers * meta.kv_heads, sequences=ROWS, ranks=ranks,
        selected=meta.selected, device=device,
    )  # fmt: skip
    rows = torch.tensor([2, 0, 3][: len(sequences)], dtype=torch.int32)
    return Side(state, groups.to(device), rows.to(device), device)


def of_layer(arrays: list[np.ndarray], meta: TraceMeta, layer: int) -> np.ndarray:
    heads = slice(layer * meta.kv_heads, (layer + 1) * meta.kv_heads)
    return np.stack([array[heads] for array in arrays])


def step_through(
    side: Side, sequences: list[SequenceTrace], meta: TraceMeta, steps: int
) -> Iterator[tuple[int, dict[int, torch.Tensor], dict[int, torch.Tensor]]]:
    """After each step: columns of the lookahead for it, and of its candidates, by layer."""
    for t in range(steps):
        ahead, after = {}, {}
        pages = side.put(np.array([s.page_count for s in sequences], np.int32))
        for layer in range(meta.layers):
            ids = side.put(of_layer([s.pages[t] for s in sequences], meta, layer))
            if t:
                ranks = side.put(of_layer([s.lookahead[1][t].astype(np.int32) for s in sequences], meta, layer))
                ahead[layer] = lookahead_columns(side.state, side.place(meta, layer, t - 1), ranks, pages)
            flags = side.put(of_layer([s.flags[t] for s in sequences], meta, layer))
            scores = side.put(of_layer([s.scores[t] for s in sequences], meta, layer))
            place = side.place(meta, layer, t)
            observe(side.state, place, ids, scores, flags)
            after[layer] = page_columns(side.state, place, ids, pages)
        yield t, ahead, after


def rows_of(columns: dict[int, torch.Tensor], number: int) -> torch.Tensor:
    """[L, m, F] of one sequence of the batch."""
    return torch.cat([columns[layer][:, number] for layer in sorted(columns)], 1).permute(1, 2, 0).cpu()


def expect(found: torch.Tensor, lanes: np.ndarray, places: np.ndarray, rows: np.ndarray, features: Features) -> None:
    for column, (name, _) in enumerate(features):
        mine = found[lanes, places][:, column]
        wanted = torch.from_numpy(rows[:, column])
        assert torch.allclose(mine, wanted, rtol=1e-5, atol=1e-5, equal_nan=True), name


def check(sequences: list[SequenceTrace], meta: TraceMeta, steps: int, device: str) -> None:
    side = make_side(sequences, meta, device)
    known: list[tuple[DeviceState, DeviceLookahead]] = [
        (new_device_state(s, meta), new_device_lookahead(s.page_count, meta)) for s in sequences
    ]
    for t, ahead, after in step_through(side, sequences, meta, steps):
        for number, (sequence, (state, ranks)) in enumerate(zip(sequences, known, strict=True)):
            pages, selected = sequence.pages[t], sequence.selected[t]
            if t:
                given = sequence.lookahead[1][t].astype(np.int32)
                lanes, _, rows = ranks.rank(state, given)
                expect(rows_of(ahead, number), lanes, np.nonzero(given >= 0)[1], rows, DEVICE_FEATURES)
                ranks.settle(pages, selected)
            state.observe(sequence.page_count * meta.page_size, pages, sequence.scores[t], selected)
            lane, candidate = np.nonzero(pages >= 0)
            rows = state.rows(lane.astype(np.int32), pages[lane, candidate])
            expect(rows_of(after, number), lane, candidate, rows, PAGE_FEATURES)
            assert rows_of(after, number)[np.nonzero(pages < 0)].isnan().all()
    for number, (sequence, (state, _)) in enumerate(zip(sequences, known, strict=True)):
        same_state(side, number, sequence, state)


def same_state(side: Side, number: int, sequence: SequenceTrace, state: DeviceState) -> None:
    groups = side.groups_of[number, : sequence.page_count].cpu().long()
    words = side.state.words.cpu().view(-1, side.state.lanes, 4)[groups].transpose(0, 1)
    assert torch.equal(words, torch.from_numpy(state.words[:, : sequence.page_count])), "the words differ"
    view = side.state.view[int(side.rows[number])].cpu()
    for column, mine in ((TURNOVER, "turnover"), (CHURN, "churn"), (THRESHOLD, "threshold"), (LOWEST, "floor")):
        torch.testing.assert_close(view[:, column], torch.from_numpy(getattr(state.view, mine)), equal_nan=True)


def random_sequence(seed: int, steps: int, pages: int, n: int, ranks: int, meta: TraceMeta) -> SequenceTrace:
    """Pads anywhere among the candidates and at the end of the ranks; some lanes that select nothing at a step."""
    random = np.random.default_rng(seed)
    shape = (steps, meta.layers * meta.kv_heads)
    order = np.argsort(random.random((*shape, pages)) + random.random(pages) * 0.5, -1).astype(np.int32)
    ids = np.where(random.random((*shape, n)) < 0.2, -1, order[..., :n]).astype(np.int32)
    chosen = (ids >= 0) & (random.random(ids.shape) < 0.5) & (random.random(shape) < 0.9)[..., None]
    looked = np.argsort(random.random((*shape, pages)) + order / pages, -1)[..., :ranks].astype(np.int32)
    looked[..., ranks - ranks // 8 :] = -1
    return SequenceTrace(
        sequence=seed, prompt_tokens=0, steps=np.arange(steps, dtype=np.int32),
        lengths=np.full(steps, pages * meta.page_size, np.int32), epochs=np.arange(steps), pages=ids,
        scores=np.where(ids >= 0, random.integers(0, 256, ids.shape), 0).astype(np.uint8),
        flags=chosen.astype(np.uint8), lookahead={1: looked},
    )  # fmt: skip


def lanes_of(sequence: SequenceTrace, lanes: int) -> SequenceTrace:
    """The first lanes of a recorded sequence."""
    cut = {name: getattr(sequence, name)[:, :lanes] for name in ("pages", "scores", "flags")}
    return replace(sequence, **cut, lookahead={1: sequence.lookahead[1][:, :lanes]})


META = TraceMeta(model="", layers=2, kv_heads=3, page_size=4, selected=5, candidates=13, page_bytes=1)


# 13 candidates and 40 ranks leave a part of a block, 40 also of the second chunk of 32; 3 heads are no power of two.
@pytest.mark.parametrize("ranks", [11, 40])
def test_kernel_keeps_the_predictors_bits(ranks: int, device: str) -> None:
    sequences = [random_sequence(seed, 7, 50 + seed, 13, ranks, META) for seed in range(2)]
    check(sequences, META, 7, device)


@pytest.fixture(params=["compiled", "reference"])
def on_a_cpu(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both implementations for CPU tensors, in turn."""
    monkeypatch.setattr(page_features, "HOST", {"compiled": compiled, "reference": reference}[request.param])


@pytest.mark.usefixtures("on_a_cpu")
def test_the_predictors_bits_on_a_cpu() -> None:
    check([random_sequence(seed, 60, 50 + seed, 13, 40, META) for seed in range(3)], META, 60, "cpu")


def test_recorded_decodes(device: str) -> None:
    trace = read_trace(SAMPLE)
    meta = trace.meta.model_copy(update={"layers": 1})
    check([lanes_of(sequence, meta.kv_heads) for sequence in trace.sequences], meta, 8, device)


@pytest.mark.usefixtures("on_a_cpu")
def test_recorded_decodes_on_a_cpu() -> None:
    trace = read_trace(SAMPLE)
    check(trace.sequences, trace.meta, 30, "cpu")


def test_what_is_freed_is_forgotten(device: str) -> None:
    sequences = [random_sequence(seed, 3, 50, 13, 11, META) for seed in range(2)]
    side = make_side(sequences, META, device)
    for _ in step_through(side, sequences, META, 3):
        pass
    gone, kept = side.groups_of[0].long(), side.groups_of[1].long()
    before = side.state.words.clone().view(-1, side.state.lanes, 4)
    side.state.forget_groups(gone)
    side.state.forget_rows(side.rows[:1].long())
    words = side.state.words.view(-1, side.state.lanes, 4)
    assert before[gone].any()
    assert not words[gone].any()
    assert torch.equal(words[kept], before[kept])
    assert side.state.view[side.rows[0].long()].isnan().all()
    assert not side.state.view[side.rows[1].long()].isnan().all()


def test_a_shared_page_stays_sound(device: str) -> None:
    """Two sequences write the same pages at once: either may win, but words stay those of one step."""
    sequences = [random_sequence(seed, 2, 50, 13, 11, META) for seed in (1, 1)]
    side = make_side(sequences, META, device)
    shared = side._replace(groups_of=side.groups_of[:1].expand(2, -1).contiguous())
    for t, _, after in step_through(shared, sequences, META, 2):
        for columns in after.values():
            ages = columns[0][~columns[0].isnan()]
            assert (ages <= t).all()
            assert (ages >= 0).all()


def test_wrong_arguments_are_named() -> None:
    sequences = [random_sequence(1, 2, 50, 13, 11, META)]
    side = make_side(sequences, META, "cpu")
    place, pages = side.place(META, 0, 0), torch.tensor([50], dtype=torch.int32)
    ids = torch.zeros(1, 3, 13, dtype=torch.int32)
    with pytest.raises(ValueError, match="13 ranked pages a lane; the state was made for 11"):
        lookahead_columns(side.state, place, ids, pages)
    with pytest.raises(ValueError, match="layer 2 lies outside 6 lanes"):
        page_columns(side.state, place._replace(layer=2), ids, pages)
    with pytest.raises(ValueError, match="flags must be"):
        observe(side.state, place, ids, ids.to(torch.uint8), ids)
