"""Hugging Face models through transformers' own extension points: an attention function and a cache class."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
import transformers
from transformers import AttentionInterface, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.cache_utils import Cache

from hotset.protos.errors import ConfigError
from hotset.runtime.gguf_once import read_once
from hotset.runtime.paged_kv import ModelShape
from hotset.runtime.passes import DecodePass, Pass

ATTENTION = "hotset"


class TieredCache(Cache):
    """A cache whose keys and values go where the current pass puts them; transformers sees no stored tensor."""

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.current: Pass | None = None
        self.seen = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Hand the new tokens of a layer to the current pass; attention reads them from there."""
        assert self.current is not None, "set `current` before the forward pass"
        self.current.append(layer_idx, key_states, value_states)
        return key_states, value_states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens before this pass, of the longest sequence."""
        return self.seen


class Forward:
    """Forward passes of one model through a TieredCache."""

    def __init__(self, model: Any, *, rows: int = 1, threads: int | None = None) -> None:
        """A decode step computes at least `rows` rows, the last ones for nothing; on a CPU `threads` do it at most."""
        self.model, self._rows, self._threads = model, rows, threads
        self._cache = TieredCache()

    def __call__(self, done: Pass, tokens: list[list[int]], positions: list[list[int]], seen: int) -> torch.Tensor:
        """Logits of the last token of each row, [B, vocabulary]; `seen` tokens came before, of the longest sequence."""
        device, count = self.model.device, len(tokens)
        decodes = isinstance(done, DecodePass)
        extra = max(0, self._rows - count) if decodes else 0
        ids = torch.tensor(tokens + extra * tokens[:1], device=device)
        places = torch.tensor(positions + extra * positions[:1], device=device)
        with _at_most(self._threads) if decodes and self._threads else contextlib.nullcontext():
            return self.compute(done, ids, places, seen)[:count]

    def compute(self, done: Pass, tokens: torch.Tensor, positions: torch.Tensor, seen: int = 0) -> torch.Tensor:
        """The same of token ids and positions that are on the device, [B, T] int64 each, for all rows."""
        self._cache.current, self._cache.seen = done, seen
        out = self.model(
            input_ids=tokens,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            hotset=done,
        )
        logits: torch.Tensor = out.logits[:, -1]
        return logits


@contextlib.contextmanager
def _at_most(threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(min(threads, before))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def hotset_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    *,
    hotset: Pass,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Attention interface: `query` [B, Hq, T, D] -> [B, T, Hq, D]; everything else is the pass's business."""
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return hotset.attend(cast(int, module.layer_idx), query, scale), None


AttentionInterface.register(ATTENTION, hotset_attention)


def load_model(path: Path, dtype: torch.dtype, device: str = "cpu") -> tuple[Any, Any]:
    """(model, tokenizer) of a checkpoint folder or a GGUF file. Raises ConfigError where it cannot be served."""
    if not path.exists():
        raise ConfigError(f"no model at {path}; give a checkpoint folder or a .gguf file")
    one_file = path.suffix == ".gguf"
    folder, extra = (path.parent, {"gguf_file": path.name}) if one_file else (path, {})
    try:
        with _quiet(), read_once() if one_file else contextlib.nullcontext():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True, **extra)
            check_servable(config)
            tokenizer = AutoTokenizer.from_pretrained(folder, config=config, local_files_only=True, **extra)
            model = AutoModelForCausalLM.from_pretrained(
                folder, config=config, dtype=dtype, attn_implementation=ATTENTION, local_files_only=True, **extra
            )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ConfigError(f"cannot load a model from {path}: {str(error).splitlines()[0]}") from error
    return cast(Any, model).to(device).eval(), tokenizer


def check_servable(config: PreTrainedConfig) -> None:
    """Raise ConfigError that names why a model's attention cannot be served from selected pages."""
    text = config.get_text_config(decoder=True)
    reasons = []
    kinds = sorted(set(getattr(text, "layer_types", None) or []) - {"full_attention"})
    if kinds:
        reasons.append(f"it has layers of type {', '.join(kinds)}")
    elif getattr(text, "sliding_window", None) and getattr(text, "use_sliding_window", True):
        reasons.append(f"all its layers use a sliding window of {text.sliding_window} tokens")
    if getattr(text, "attn_logit_softcapping", None):
        reasons.append("it caps attention logits")
    if getattr(text, "kv_lora_rank", None):
        reasons.append("it uses latent attention (MLA), which this backend does not page yet")
    if getattr(config, "is_encoder_decoder", False):
        reasons.append("it is an encoder-decoder model")
    if reasons:
        raise ConfigError(f"model type {config.model_type} cannot be served: {'; '.join(reasons)}")


def model_shape(model: Any, name: str) -> ModelShape:
    """Sizes of a loaded model."""
    text = model.config.get_text_config(decoder=True)
    heads = text.num_attention_heads
    return ModelShape(
        name=name,
        layers=text.num_hidden_layers,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        query_heads=heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        dtype=model.dtype,
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """transformers writes progress bars and notices to stderr; ours is the only progress shown."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    with contextlib.redirect_stderr(io.StringIO()):
        yield
