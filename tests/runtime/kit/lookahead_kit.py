"""Small decodes that look ahead, what the predictor makes of their log, and models of it."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
import torch

from hotset.predictor.device import DeviceHeads, DeviceState
from hotset.predictor.device.lookahead import DeviceLookahead
from hotset.protos.device_features import DEVICE_FEATURES
from hotset.protos.device_model import DeviceModel
from hotset.protos.forest import sha256
from hotset.protos.messages import AccessFlag, Model, Step
from hotset.protos.messages import Lookahead as Steer
from hotset.runtime import events
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, Generation, StepReport

SLOTS, K, LANES = 130, 6, 6
PROMPT = torch.randint(0, 97, (150,), generator=torch.Generator().manual_seed(3)).tolist()


def decoder_of(model: Any, *, device: Any = None, **options: Any) -> Decoder:
    sizes = {"page_size": 4, "selected": K, "recent": 2, "max_tokens": 700, "max_sequences": 2, "hbm_pages": SLOTS}
    return Decoder(model, None, RuntimeConfig.checked(**(sizes | options)), device=device)


def two(decoder: Decoder, tokens: int = 24) -> list[Generation]:
    return [decoder.open(PROMPT, max_new_tokens=tokens), decoder.open(PROMPT[::-1][:91], max_new_tokens=tokens)]


def run(decoder: Decoder, tokens: int = 24) -> list[list[int]]:
    opened = two(decoder, tokens)
    for _ in decoder.run():
        decoder.kv.check_integrity()
    return [generation.tokens for generation in opened]


REPORT = StepReport(0, 0, 0, 0, 0, 0, 0.0, 0.0)


def logged(decoder: Decoder, steps: int) -> list[Step]:
    """What the wire says of `steps` steps of two sequences, which go on."""
    two(decoder, steps + 2)
    told = []
    for _ in range(steps):
        decoder.step()
        done = decoder.last_pass
        assert done is not None
        sequences = [decoder.kv.sequences[number] for number in done.sequences]
        told.append(events.step_message(decoder.kv, done, sequences, decoder.epoch, decoder._stats(REPORT)()))
    return told


def parts(step: Step, row: int) -> tuple[Any, Any, Any, Any]:
    lanes = slice(row * LANES, (row + 1) * LANES)
    selected = (step.flags[lanes] & AccessFlag.SELECTED) != 0
    return step.candidates[lanes], step.scores[lanes], selected, np.array(step.lookahead[1][lanes])


class Trainer:
    """What the predictor computes from the log of one sequence: rows of ranked pages, and the state."""

    def __init__(self, pages: int) -> None:
        sizes = {"layers": 3, "kv_heads": 2, "pages": pages}
        self.state = DeviceState(page_size=4, **sizes)
        self._ahead = DeviceLookahead(selected=K, **sizes)
        self.values: list[Any] = []
        self._last: dict[tuple[int, int], list[int]] = {}

    def step(self, t: int, step: Step, row: int) -> tuple[Any, Any, Any, Any]:
        """Lanes [m], places [m] in the ranks, rows [m, F] and whether each was used."""
        candidates, scores, selected, ranks = parts(step, row)
        found: tuple[Any, ...] = (np.zeros(0, int),) * 2 + (np.zeros((0, len(DEVICE_FEATURES))), np.zeros(0, bool))
        if t:
            lanes, pages, rows = self._ahead.rank(self.state, ranks)
            chosen = [set(candidates[lane][selected[lane]].tolist()) for lane in range(LANES)]
            used = np.array([page in chosen[lane] for lane, page in zip(lanes, pages, strict=True)])
            found = (*np.nonzero(ranks >= 0), rows, used)
            self._ahead.settle(candidates, selected)
        self.state.observe(int(step.lengths[row]), candidates, scores, selected)
        return found


def learn(steps: list[Step]) -> DeviceModel:
    """Both heads, by LightGBM, from the log of two sequences."""
    use: list[Any] = []
    value: list[Any] = []
    pages = int(max(step.candidates.max() for step in steps)) + 1
    for row in range(2):
        trainer = Trainer(pages)
        for t, step in enumerate(steps):
            _, _, rows, used = trainer.step(t, step, row)
            use.append((rows, used))
            candidates, _, _, _ = parts(step, row)
            lane, place = np.nonzero(candidates >= 0)
            named = candidates[lane, place]
            value.append((trainer.state.rows(lane.astype(np.int32), named), next_use(steps[t + 1 :], row, lane, named)))
    options = {"num_leaves": 15, "min_data_in_leaf": 20, "verbose": -1, "deterministic": True, "num_threads": 1}
    texts = []
    for rows_and_labels, objective in ((value, "regression"), (use, "binary")):
        rows, labels = (np.concatenate(part) for part in zip(*rows_and_labels, strict=True))
        booster = lightgbm.train({**options, "objective": objective}, lightgbm.Dataset(rows, labels), 12)
        texts.append(booster.model_to_string())
    return DeviceHeads(*texts).model


def next_use(later: list[Step], row: int, lanes: Any, pages: Any) -> Any:
    """log2 of steps to the next selection, of those that are beyond the log as of its end."""
    found = np.full(len(lanes), np.log2(len(later) + 2))
    for steps, step in reversed(list(enumerate(later, 1))):
        candidates, _, selected, _ = parts(step, row)
        used = np.zeros((LANES, int(pages.max()) + 2), bool)
        lane, place = np.nonzero(selected & (candidates <= pages.max()))
        used[lane, candidates[lane, place]] = True
        found[used[lanes, pages]] = np.log2(steps)
    return found


def message(data: bytes, number: int = 1, **more: Any) -> Model:
    fields = {"version": f"v{number}", "sha256": sha256(data)} | more
    return Model(number=number, forest=np.frombuffer(data, "|u1"), **fields)


def steer(**values: list[float]) -> Steer:
    told = {"distance": [-1.0] * 3, "least": [np.nan] * 3, "pages": [-1.0] * 3} | values
    dtypes = {"distance": "|i1", "least": "<f4", "pages": "<i4"}
    return Steer(number=1, steps=2, **{name: np.array(told[name], dtype) for name, dtype in dtypes.items()})
