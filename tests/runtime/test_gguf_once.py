"""A GGUF file is walked once a load, gives what it gave, and the library is left as it was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from hotset.ops import samples
from hotset.runtime.gguf_once import read_once
from hotset.runtime.huggingface import load_model


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_token_list(["a", "naïve", "東京"])
    writer.add_tensor("output.weight", np.arange(6, dtype=np.float32).reshape(2, 3))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def content(reader: gguf.GGUFReader) -> dict[str, object]:
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields | {tensor.name: np.array(tensor.data).tolist() for tensor in reader.tensors}


def test_one_reader_a_file_that_reads_the_same(file: Path, tmp_path: Path) -> None:
    alone = content(gguf.GGUFReader(file))
    assert alone["tokenizer.ggml.tokens"] == ["a", "naïve", "東京"]
    other = tmp_path / "other.gguf"
    other.write_bytes(file.read_bytes())
    with read_once():
        first = gguf.GGUFReader(file)
        assert gguf.GGUFReader(str(file)) is first
        assert gguf.GGUFReader(other) is not first
        assert content(first) == alone
        assert type(first.data) is np.ndarray
        arch = gguf.MODEL_ARCH.LLAMA
        assert gguf.get_tensor_name_map(arch, 2) is gguf.get_tensor_name_map(arch, 2)
        assert gguf.get_tensor_name_map(arch, 3) is not gguf.get_tensor_name_map(arch, 2)


@pytest.mark.e2e
def test_the_demos_model_is_walked_once_and_knows_its_words(monkeypatch: pytest.MonkeyPatch) -> None:
    walked, honest = [], gguf.GGUFReader._build_fields

    def walk(reader: gguf.GGUFReader, *arguments: Any) -> Any:
        walked.append(reader)
        return honest(reader, *arguments)

    monkeypatch.setattr(gguf.GGUFReader, "_build_fields", walk)
    model, tokenizer = load_model(samples.embedded_model(), torch.bfloat16)
    assert len(walked) == 1
    asked = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        model.config._attn_implementation = "eager"
        best = int(model(asked).logits[0, -1].argmax())
    assert tokenizer.decode([best]).strip() == "Paris"


def test_the_library_is_left_as_it_was(file: Path) -> None:
    theirs = gguf.GGUFReader, gguf.get_tensor_name_map
    file.write_bytes(bytes(100))
    with pytest.raises(ValueError, match="magic"), read_once():
        gguf.GGUFReader(file)
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == theirs
