"""Prompts into pages: chunk by chunk through the model, given by the caller, or shared with an open sequence."""

from __future__ import annotations

import torch

from hotset.runtime.generation import Request
from hotset.runtime.groups import Sequence
from hotset.runtime.huggingface import Forward
from hotset.runtime.paged_kv import PagedKV
from hotset.runtime.passes import PrefillPass, warm_pages
from hotset.runtime.prefixes import PrefixIndex
from hotset.runtime.selectors import Selector


class Prefill:
    """Prefills sequences of one PagedKV and knows which open prompts a new one may share pages with."""

    def __init__(self, kv: PagedKV, forward: Forward, selector: Selector) -> None:
        self.kv, self._forward, self._selector = kv, forward, selector
        self.prefixes = PrefixIndex(kv.config.chunk)

    def shared_pages(self, prompt: list[int]) -> int:
        """Leading pages of `prompt` that an open sequence has."""
        match = self.prefixes.find(prompt) if self.kv.config.share_prefix else None
        return match.tokens // self.kv.page_size if match else 0

    def run(self, sequence: Sequence, request: Request) -> torch.Tensor:
        """Bring the prompt of `request` into `sequence` and warm its pages; logits behind the last token, [V].

        Raises CapacityError if no tier has room; the sequence is the caller's to close.
        """
        prompt, chunk = request.prompt, self.kv.config.chunk
        self._share(sequence, request)
        for start in range(sequence.length, len(prompt), chunk):
            part = prompt[start : start + chunk]
            done = PrefillPass(self.kv, sequence, len(part), keep=request.keep is not None)
            logits = self._chunk(done, part, start, request)
            request.progress(len(part))
        warm_pages(self.kv, sequence, done.last_queries, self._selector, done.scale)
        self.prefixes.add(sequence.id, prompt)
        return logits[0]

    def _share(self, sequence: Sequence, request: Request) -> None:
        match = self.prefixes.find(request.prompt) if self.kv.config.share_prefix else None
        if match is None:
            return
        self.kv.share(sequence, self.kv.sequences[match.sequence], match.tokens // self.kv.page_size)
        self.kv.manager.moved.shared_pages += len(sequence.groups) * self.kv.lanes
        if request.keep is not None:
            request.keep.chunks += self._read(sequence)
        request.progress(match.tokens)

    def _read(self, sequence: Sequence) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
        """K and V of what `sequence` holds, as PromptKV.chunks."""
        layers = [self.kv.tokens(sequence.groups, layer) for layer in range(self.kv.shape.layers)]
        split = [torch.split(both, self.kv.config.chunk, dim=3) for both in layers]
        return [[(both[0], both[1]) for both in chunk] for chunk in zip(*split, strict=True)]

    def _chunk(self, done: PrefillPass, part: list[int], start: int, request: Request) -> torch.Tensor:
        if request.given is None:
            logits = self._forward(done, [part], [list(range(start, start + len(part)))], start)
        else:
            for layer, (keys, values) in enumerate(request.given.chunks[start // self.kv.config.chunk]):
                done.append(layer, keys, values)
            logits = request.given.logits
        if request.keep is not None:
            request.keep.chunks.append(done.kept)
            request.keep.logits = logits
        return logits
