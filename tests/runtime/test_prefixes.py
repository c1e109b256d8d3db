"""Sharing of prefixes: one copy in every tier, no byte twice, and the tokens of an unshared decode."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder, PromptKV
from hotset.runtime.prefixes import Match, PrefixIndex
from hotset.runtime.sampling import Sampling

CHUNK = 16
COMMON = [(11 * i) % 97 for i in range(50)]  # three chunks and two tokens
PROMPTS = [[*COMMON, 1, 2, 3], [*COMMON, 4, 5, 6, 7, 8, 9, 10, *range(20)], COMMON[:33], [*COMMON[:20], 3, 3, 3]]
SHARED = [0, 48, 32, 16]
BASE: dict[str, Any] = {"page_size": 4, "selected": 6, "recent": 2, "max_tokens": 400, "max_sequences": 4,
                        "prefill_chunk": CHUNK, "hbm_pages": 90}  # fmt: skip
LANES = 6


def decoder_of(model: Any, **options: Any) -> Decoder:
    return Decoder(model, None, RuntimeConfig.checked(**{**BASE, **options}))


def decode(decoder: Decoder) -> list[list[int]]:
    generations = [
        decoder.open(p, max_new_tokens=12 + i, sampling=Sampling(0.7 * (i % 2), seed=i)) for i, p in enumerate(PROMPTS)
    ]
    for _ in decoder.run():
        decoder.kv.check_integrity()
    decoder.close()
    return [g.tokens for g in generations]


@pytest.fixture(scope="module")
def unshared(model: Any) -> list[list[int]]:
    return decode(decoder_of(model, share_prefix=False))


def test_shared_pages_are_the_same_groups_and_the_same_bits(model: Any, unshared: list[list[int]]) -> None:
    decoder = decoder_of(model)
    assert decode(decoder) == unshared
    assert decoder.kv.manager.moved.shared_pages == sum(SHARED) // 4 * LANES
    assert decoder.kv.groups.free_groups == len(decoder.kv.groups.references)


def test_a_shared_page_is_written_once_and_counted_by_its_holders(model: Any) -> None:
    decoder = decoder_of(model)
    first, second, third, _ = [decoder.open(p, max_new_tokens=3).sequence for p in PROMPTS]
    kv = decoder.kv
    assert second.groups[:12] == first.groups[:12]
    assert third.groups[:8] == first.groups[:8]
    assert second.groups[12] != first.groups[12]
    assert [kv.groups.references[g] for g in first.groups] == [4] * 4 + [3] * 4 + [2] * 4 + [1] * 2
    sealed = {g for s in kv.sequences.values() for g in s.groups[: s.length // 4]}
    assert kv.manager.moved.written_pages == len(sealed) * LANES
    assert kv.manager.backing.host.stats.used == len(sealed) * LANES
    kv.check_integrity()
    decoder._finish(decoder.running[0], "gone")
    assert [kv.groups.references[g] for g in second.groups[:12]] == [3] * 4 + [2] * 4 + [1] * 4
    kv.check_integrity()
    decoder.close()


def test_the_disk_holds_one_copy_too(model: Any, unshared: list[list[int]], tmp_path: Path) -> None:
    decoder = decoder_of(model, host_pages=70, disk_dir=tmp_path)
    for prompt in PROMPTS:
        decoder.open(prompt, max_new_tokens=2)
    backing = decoder.kv.manager.backing
    sealed = {g for s in decoder.kv.sequences.values() for g in s.groups[: s.length // 4]}
    assert backing.disk is not None
    assert backing.disk.stats.used > 0
    assert backing.host.stats.used + backing.disk.stats.used == len(sealed) * LANES
    decoder.close()
    assert decode(decoder_of(model, host_pages=70, disk_dir=tmp_path)) == unshared


def test_a_shared_prefill_moves_and_computes_less(model: Any) -> None:
    told: list[int] = []
    passes: list[int] = []
    decoder = decoder_of(model)
    decoder.open(PROMPTS[0], max_new_tokens=2)
    written = decoder.kv.manager.moved.written_pages
    hook = model.register_forward_pre_hook(
        lambda module, args, kwargs: passes.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    decoder.open(PROMPTS[1], max_new_tokens=2, progress=told.append)
    hook.remove()
    assert told == [48, 16, 13]
    assert passes == told[1:]
    assert decoder.kv.manager.moved.written_pages - written == (len(PROMPTS[1]) - 48) // 4 * LANES
    decoder.close()


def test_what_was_decoded_is_not_shared_and_what_has_closed_neither(model: Any) -> None:
    """Pages from decoding have other last bits than a prefill would give them."""
    decoder = decoder_of(model)
    first = decoder.open(PROMPTS[0], max_new_tokens=40)
    list(decoder.run())
    assert decoder._prefill.shared_pages(PROMPTS[0]) == 0
    again = decoder.open(PROMPTS[0], max_new_tokens=40)
    assert decoder._prefill.shared_pages([*PROMPTS[0], *first.tokens]) == 12
    list(decoder.run())
    assert again.tokens == first.tokens
    decoder.close()


def test_kept_prompts_are_whole_though_shared(model: Any, unshared: list[list[int]]) -> None:
    kept = [PromptKV() for _ in range(2)]
    decoder = decoder_of(model)
    for prompt, keep in zip(PROMPTS, kept, strict=False):
        decoder.open(prompt, max_new_tokens=2, keep=keep)
    decoder.close()
    alone = PromptKV()
    decoder = decoder_of(model, share_prefix=False)
    decoder.open(PROMPTS[1], max_new_tokens=2, keep=alone)
    assert len(kept[1].chunks) == len(alone.chunks) == 5
    for ours, theirs in zip(kept[1].chunks, alone.chunks, strict=True):
        for (keys, values), (same_keys, same_values) in zip(ours, theirs, strict=True):
            assert torch.equal(keys, same_keys)
            assert torch.equal(values, same_values)
    given = decoder.open(PROMPTS[1], max_new_tokens=13, sampling=Sampling(0.7, seed=1), given=kept[1])
    list(decoder.run())
    assert given.tokens == unshared[1]
    decoder.close()


def test_index_against_brute_force() -> None:
    """Prompts over two tokens, so that many begin alike; after each operation, every prompt's longest match."""
    rng, index = random.Random(5), PrefixIndex(2)
    prompts: dict[int, list[int]] = {}
    for number in range(300):
        if prompts and rng.random() < 0.4:
            gone = rng.choice(list(prompts))
            del prompts[gone]
            index.remove(gone)
        else:
            prompts[number] = [rng.randint(0, 1) for _ in range(rng.randint(1, 12))]
            index.add(number, prompts[number])
        prompt = [rng.randint(0, 1) for _ in range(rng.randint(1, 12))]
        match = index.find(prompt)
        longest = max((_common(prompt, other) for other in prompts.values()), default=0)
        assert (match.tokens if match else 0) == longest
        assert match is None or _common(prompt, prompts[match.sequence]) == longest
    for number in list(prompts):
        index.remove(number)
    assert not index._by_key


def _common(prompt: list[int], other: list[int]) -> int:
    most = min(len(prompt) - 1, len(other)) // 2
    return max((2 * n for n in range(most + 1) if prompt[: 2 * n] == other[: 2 * n]), default=0)


def test_equal_hashes_do_not_make_tokens_equal() -> None:
    """hash(-1) equals hash(-2) in CPython, so these two chunks have one key."""
    index = PrefixIndex(2)
    index.add(1, [-1, 5, 7])
    assert index._keys([-1, 5], 2) == index._keys([-2, 5], 2)
    assert index.find([-2, 5, 7]) is None
    index.add(2, [-2, 5, 7])
    assert index.find([-2, 5, 7]) == Match(2, 2)
