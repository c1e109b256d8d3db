"""A decoder whose batch stands at the end of a long context, without the prefill where the content does not matter."""

from __future__ import annotations

from typing import Any

import torch

from hotset.kernels.state import FREE, LIVE
from hotset.ops import samples
from hotset.ops.decode_bench.shapes import Shape
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.generation import Generation, PromptKV
from hotset.runtime.gpu.residency import DeviceResidency
from hotset.runtime.sampling import Sampler, Sampling

HOST_BYTES = 4 << 30
"""Frames of a random model: pages beyond share them, which changes neither what a copy moves nor what it takes."""


def options(shape: Shape, batch: int, lanes: int, page_bytes: int) -> dict[str, Any]:
    """RuntimeConfig options that all arms share."""
    tokens = batch * shape.context
    pages = (-(-tokens // shape.page_size) + batch) * lanes
    host = pages if shape.config is None else min(pages, HOST_BYTES // page_bytes)
    return {
        "page_size": shape.page_size, "selected": shape.selected, "recent": 4, "max_tokens": tokens,
        "max_sequences": batch, "host_pages": host, "share_prefix": False,
    }  # fmt: skip


def page_bytes(model: Any, shape: Shape) -> int:
    """Bytes of a page of one lane."""
    text = model.config
    dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * shape.page_size * dim * shape.dtype.itemsize)


class Prompts:
    """Pieces of a long text as prompts. Their K and V are kept, so that each is computed once for all arms."""

    def __init__(self, shape: Shape, tokenizer: Any) -> None:
        self._tokens = []
        for i, part in enumerate(samples.split_text(samples.long_text(), max(shape.batches))):
            tokens = tokenizer(part * (1 + 8 * shape.context // len(part)))["input_ids"]
            self._tokens.append(tokens[: shape.start + i % shape.page_size])
        self._kept: dict[int, PromptKV] = {}

    def open(self, decoder: Decoder, number: int, most: int) -> None:
        """Start a sequence with prompt `number`, which decodes up to `most` tokens."""
        given = self._kept.get(number)
        keep = None if given else self._kept.setdefault(number, PromptKV())
        decoder.open(self._tokens[number], max_new_tokens=most, keep=keep, given=given)


def seat(decoder: Decoder, shape: Shape, batch: int, prompts: Prompts | None) -> None:
    """Open `batch` sequences near the end of the context; a random model has no `prompts`."""
    room = shape.context - shape.start - shape.page_size
    if prompts is not None:
        for i in range(batch):
            prompts.open(decoder, i, room)
        return
    for i in range(batch):
        # Each at another place in its page, so that not all open a tail in one step.
        tokens = shape.start + i % shape.page_size
        sequence = decoder.kv.open(tokens)
        decoder.kv.extend(sequence, tokens)
        generation = Generation(sequence, [0] * tokens, room, Sampler(Sampling()), tokens=[1])
        decoder.scheduler.add(generation)
    decoder.kv.forget_changes()
    _fill(decoder)


def _fill(decoder: Decoder) -> None:
    """Random content for all sealed pages of a random model, wherever it would be."""
    manager = decoder.kv.manager
    decoder.kv.bounds.normal_()
    sealed = torch.cat([manager.pages_of(torch.tensor(s.groups[: s.length // decoder.kv.page_size])).flatten()
                        for s in decoder.kv.sequences.values()])  # fmt: skip
    if not isinstance(manager, DeviceResidency):
        for part in torch.split(sealed, 4096):
            manager.store(part, torch.randn((part.numel(), *manager.rows.shape[1:]), dtype=manager.rows.dtype))
        return
    if not manager.tiered:
        manager.rows.normal_()
        return
    backing = manager.backing
    frames, block = backing.host.frames.flatten(), torch.randn(1 << 22).to(manager.rows.dtype)
    for part in torch.split(frames, block.numel()):
        part.copy_(block[: part.numel()])
    backing.frame_of[sealed] = sealed % backing.host.stats.capacity
    backing.frame_at.copy_(backing.frame_of.to(torch.int32))


def place_all(decoder: Decoder) -> None:
    """Give every sealed page of a device's pool a slot."""
    manager = decoder.kv.manager
    assert isinstance(manager, DeviceResidency)
    state = manager.state
    stored = (manager.backing.frame_at >= 0) & (state.slot_of < 0)
    pages, free = torch.nonzero(stored).flatten(), torch.nonzero(state.state == FREE).flatten()
    slots = free[: pages.numel()]
    state.page_of[slots] = pages.to(torch.int32)
    state.slot_of[pages] = slots.to(torch.int32)
    state.state[slots] = LIVE
    for part in torch.split(torch.arange(pages.numel(), device=pages.device), 1 << 16):
        manager.read_pages(pages[part], slots[part])


def build(shape: Shape, model: Any, batch: int, extra: dict[str, Any], device: Any = None) -> Decoder:
    """A decoder with `batch` places; `seat` fills them. `device` as for Decoder."""
    text = model.config
    lanes = text.num_hidden_layers * text.num_key_value_heads
    given = options(shape, batch, lanes, page_bytes(model, shape))
    config = RuntimeConfig.checked(**{**given, **extra})
    # No tokenizer, no end of text: every sequence decodes as long as it is asked to.
    return Decoder(model, None, config, device=device)
