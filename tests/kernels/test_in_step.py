"""The whole decision of a layer: features, both heads, prefetches and values, by kernels and by references."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch

from hotset.kernels.decide.bench import Layer

STEPS = 3


def moved(thing: Any, device: str) -> Any:
    """A copy with all tensors on `device`."""
    if isinstance(thing, torch.Tensor):
        return thing.clone().to(device)
    if is_dataclass(thing) and not isinstance(thing, type) and any("torch" in str(f.type) for f in fields(thing)):
        return replace(thing, **{f.name: moved(getattr(thing, f.name), device) for f in fields(thing)})
    return type(thing)(*(moved(part, device) for part in thing)) if hasattr(thing, "_fields") else thing


def decisions(layer: Layer) -> list[torch.Tensor]:
    """What a few steps prefetch, predict and leave as the slots' values."""
    torch.manual_seed(1)
    shape, found = (*layer.ids.shape[:2], layer.place.groups_of.shape[1]), []
    for step in range(STEPS):
        layer.ids.copy_(torch.rand(shape).argsort(-1)[..., : layer.ids.shape[2]])
        layer.place.steps.fill_(step - 1)
        prefetch = layer.ahead()
        layer.place.steps.fill_(step)
        found += [prefetch, layer.settle(), layer.residency.value.clone()]
    return [tensor.cpu() for tensor in found]


@pytest.fixture(scope="module")
def layer() -> Layer:
    """9 of 18 candidates, three heads: nothing fills a block."""
    torch.manual_seed(0)
    return Layer.make(2, 3, 9, device="cpu")


@pytest.fixture(scope="module")
def expected(layer: Layer) -> list[torch.Tensor]:
    """By the references: a module's fixtures are made before `device` turns the interpreter on."""
    return decisions(moved(layer, "cpu"))


def test_kernels_decide_as_references_do(layer: Layer, expected: list[torch.Tensor], device: str) -> None:
    found = decisions(moved(layer, device))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5, equal_nan=True)
    prefetched = [(pages >= 0).sum() for pages in expected[::3]]
    assert all(prefetched), "nothing was prefetched, so the test tells nothing"
    assert len({float(value) for value in expected[1]}) > 9, "all pages have one value, so the test tells nothing"


@pytest.mark.gpu
def test_a_captured_graph_decides_alike(layer: Layer) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    eager, captured = moved(layer, "cuda"), moved(layer, "cuda")
    expected = [eager.settle(), eager.ahead(), eager.settle(), eager.ahead()]
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            found = [captured.settle(), captured.ahead()]
        for wanted in (expected[:2], expected[2:]):
            graph.replay()
            stream.synchronize()
            for mine, theirs in zip(found, wanted, strict=True):
                torch.testing.assert_close(mine, theirs, equal_nan=True)
