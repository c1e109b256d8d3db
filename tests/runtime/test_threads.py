"""How many threads compute what on a CPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hotset.runtime import config as config_module
from hotset.runtime.config import RuntimeConfig
from hotset.runtime.decoder import Decoder
from hotset.runtime.passes import DecodePass, PrefillPass


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


@pytest.mark.parametrize(("cores", "asked", "steps"), [(2, None, 1), (1, None, 1), (3, None, 3), (2, 2, 2), (8, 9, 3)])
def test_steps_have_one_thread_of_two_and_prompts_have_all(
    model: Any, threads: int, cores: int, asked: int | None, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config_module, "usable_cores", lambda: cores)
    seen: dict[type[Any], set[int]] = {PrefillPass: set(), DecodePass: set()}
    for kind in seen:

        def attend(self: Any, *args: Any, plain: Any = kind.attend) -> Any:
            seen[type(self)].add(torch.get_num_threads())
            return plain(self, *args)

        monkeypatch.setattr(kind, "attend", attend)
    decoder = Decoder(model, None, RuntimeConfig(max_tokens=64, max_sequences=1, step_threads=asked))
    decoder.open(list(range(20)), max_new_tokens=4)
    for _ in decoder.run():
        assert torch.get_num_threads() == threads
    decoder.close()
    assert seen == {PrefillPass: {threads}, DecodePass: {steps}}


def test_a_step_that_fails_gives_the_threads_back(model: Any, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any) -> torch.Tensor:
        raise RuntimeError("no attention")

    decoder = Decoder(model, None, RuntimeConfig(max_tokens=64, max_sequences=1, step_threads=1))
    decoder.open(list(range(20)), max_new_tokens=4)
    monkeypatch.setattr(DecodePass, "attend", fail)
    with pytest.raises(RuntimeError, match="no attention"):
        decoder.step()
    assert torch.get_num_threads() == threads
    decoder.close()
