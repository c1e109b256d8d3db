"""Nodes by name or file: parameters of `Node` in TOML, each with its source."""

from __future__ import annotations

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from hotset.ops.simulate.node import Node
from hotset.protos.errors import ConfigError


def node_names() -> list[str]:
    """Nodes that come with hotset."""
    return sorted(
        entry.name.removesuffix(".toml") for entry in files(__name__).iterdir() if entry.name.endswith(".toml")
    )


def load_node(name: str) -> dict[str, Any]:
    """Options of the node `name`, one that comes with hotset or a TOML file. Raises ConfigError that says what is."""
    if name in node_names():
        text = files(__name__).joinpath(f"{name}.toml").read_text(encoding="utf-8")
    elif Path(name).suffix == ".toml":
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{name}: cannot be read as a node: {error}") from None
    else:
        raise ConfigError(f"no node {name!r}; give {', '.join(node_names())}, or a file that ends in .toml")
    try:
        options = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not TOML: {error}") from None
    if unknown := sorted(options.keys() - Node.model_fields.keys()):
        raise ConfigError(f"{name}: a node has no {', '.join(unknown)}; it has {', '.join(Node.model_fields)}")
    return options
