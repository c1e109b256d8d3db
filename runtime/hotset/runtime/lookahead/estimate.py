"""A later layer's query, estimated from the hidden state that enters an earlier one.

The residual stream changes little from layer to layer, so that the later layer's own norm, query projection and rotary
embedding, applied to what enters layer l, give nearly the query that it will ask with (Lee et al., InfiniGen, OSDI
2024, section 4.2, speculate in the same way).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch

from hotset.protos.errors import ConfigError

Enter = Callable[[Any, int, torch.Tensor, Any], None]
"""(the pass, layer, hidden state [B, T, hidden], cos and sin) as a layer begins"""


class QueryEstimate:
    """Queries of any layer of a Hugging Face model; tells `enter` whenever one begins, until `close`."""

    def __init__(self, model: Any, enter: Enter, *, fused: bool) -> None:
        """Raises ConfigError for a model whose layers are not made of a norm, a projection and a rotary embedding.

        `fused`: known norms and embeddings are computed in fewer launches than by the model's own modules, with other
        rounding.
        """
        self._layers = list(getattr(getattr(model, "model", None), "layers", None) or [])
        wanted = ("input_layernorm", "self_attn.q_proj", "self_attn.head_dim", "self_attn.scaling")
        missing = sorted({name for layer in self._layers for name in wanted if not _has(layer, name)})
        if missing or not self._layers:
            kind = model.config.model_type
            raise ConfigError(f"model type {kind} has no {', '.join(missing) or 'layers'} to look ahead with; "
                              "use --lookahead off")  # fmt: skip
        self._rotate = getattr(sys.modules[type(self._layers[0].self_attn).__module__], "apply_rotary_pos_emb", None)
        if self._rotate is None:
            raise ConfigError(f"model type {model.config.model_type} has no rotary embedding; use --lookahead off")
        self._fused = fused
        self._halves = fused and _turns_halves(self._rotate)
        self._sin: tuple[torch.Tensor, torch.Tensor] | None = None
        self._hooks = [
            layer.register_forward_pre_hook(_hook(number, enter), with_kwargs=True)
            for number, layer in enumerate(self._layers)
        ]

    def query(self, layer: int, hidden: torch.Tensor, rotary: Any) -> tuple[torch.Tensor, float]:
        """Query [B, Hq, D] of `layer` for `hidden` [B, 1, hidden], rotated by `rotary` (cos, sin), and its scale."""
        block = self._layers[layer]
        attention = block.self_attn
        query = attention.q_proj(self._normed(block.input_layernorm, hidden))
        norm = getattr(attention, "q_norm", None)
        per_head = query.view(*hidden.shape[:-1], -1, attention.head_dim)
        query = (self._normed(norm, per_head) if norm is not None else per_head).transpose(1, 2)
        if getattr(attention, "use_rope", True):
            query = self._turned(query, *rotary)
        return query[:, :, 0], float(attention.scaling)

    def _normed(self, norm: Any, x: torch.Tensor) -> torch.Tensor:
        epsilon = getattr(norm, "variance_epsilon", None)  # what a root mean square norm of Hugging Face has
        if not self._fused or epsilon is None or not hasattr(norm, "weight"):
            return norm(x)  # type: ignore[no-any-return]
        return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, epsilon)

    def _turned(self, query: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        if not self._halves:
            return self._rotate(query, query[:, :1], cos, sin)[0]  # type: ignore[misc, no-any-return]
        if self._sin is None or self._sin[0] is not sin:
            self._sin = sin, _signed(sin)
        return _turn(query, cos, self._sin[1])

    @property
    def fused(self) -> bool:
        """Whether norms and embeddings are ones that are known."""
        return self._halves

    def close(self) -> None:
        """Leave the model as it was."""
        for hook in self._hooks:
            hook.remove()


def _signed(sin: torch.Tensor) -> torch.Tensor:
    first, second = sin.chunk(2, -1)
    return torch.cat((-first, second), -1)


def _turn(x: torch.Tensor, cos: torch.Tensor, signed: torch.Tensor) -> torch.Tensor:
    """Rotate the first half of x [B, H, T, D] against its second, as _signed(sin) [B, T, D] says."""
    return torch.addcmul(x * cos[:, None], x.roll(x.shape[-1] // 2, -1), signed[:, None])


def _turns_halves(rotate: Callable[..., Any]) -> bool:
    """Whether that is what a model's own rotary embedding does."""
    x = torch.linspace(-1, 1, 24).view(1, 2, 1, 12)
    cos, sin = torch.linspace(0.1, 0.7, 12).view(1, 1, 12), torch.linspace(0.2, 0.9, 12).view(1, 1, 12)
    try:
        return torch.allclose(rotate(x, x, cos, sin)[0], _turn(x, cos, _signed(sin)))
    except (TypeError, ValueError, RuntimeError):
        return False


def _has(layer: Any, path: str) -> bool:
    for name in path.split("."):
        layer = getattr(layer, name, None)
    return layer is not None


def _hook(number: int, enter: Enter) -> Callable[[Any, tuple[Any, ...], dict[str, Any]], None]:
    def begin(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        enter(kwargs.get("hotset"), number, hidden, kwargs.get("position_embeddings"))

    return begin
