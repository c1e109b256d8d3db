"""Which open sequence begins like a prompt: a chain of hashes over prefill chunks, verified token by token.

Only whole chunks of a prompt are shared. A chunk's K and V depend in their last bits on how many tokens were computed
together, so pages from a shorter last chunk, or from decoding, are not what a prefill of the longer prompt would make.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple


class Match(NamedTuple):
    """`tokens` leading tokens are those of the open sequence `sequence`."""

    sequence: int
    tokens: int


class PrefixIndex:
    """Prompts of open sequences by their chunks of `chunk` tokens. Holds no groups: who closes must be removed."""

    def __init__(self, chunk: int) -> None:
        self.chunk = chunk
        self._prompts: dict[int, list[int]] = {}
        self._by_key: defaultdict[int, list[int]] = defaultdict(list)

    def add(self, sequence: int, prompt: list[int]) -> None:
        """From now on `sequence`, which has prefilled `prompt`, may be shared with."""
        self._prompts[sequence] = prompt
        for key in self._keys(prompt, len(prompt)):
            self._by_key[key].append(sequence)

    def remove(self, sequence: int) -> None:
        """Forget a sequence; one that was never added is ignored."""
        prompt = self._prompts.pop(sequence, [])
        for key in self._keys(prompt, len(prompt)):
            self._by_key[key].remove(sequence)
            if not self._by_key[key]:
                del self._by_key[key]

    def find(self, prompt: list[int]) -> Match | None:
        """The longest shared beginning of `prompt`, in whole chunks; at least one token is left to compute."""
        for number, key in reversed(list(enumerate(self._keys(prompt, len(prompt) - 1), 1))):
            tokens = number * self.chunk
            for sequence in self._by_key.get(key, ()):
                # Equal hashes are a hint only: pages are shared if the tokens are the same.
                if self._prompts[sequence][:tokens] == prompt[:tokens]:
                    return Match(sequence, tokens)
        return None

    def _keys(self, prompt: list[int], end: int) -> list[int]:
        keys, key = [], 0
        for start in range(0, end - self.chunk + 1, self.chunk):
            key = hash((key, *prompt[start : start + self.chunk]))
            keys.append(key)
        return keys
