"""Where a daemon's configuration comes from: flags, then environment, then a TOML file, then defaults.

Everything is read and checked as a whole, and every mistake is listed with the flag, variable or file key that
made it; a name that nobody knows is a mistake too.
"""

from __future__ import annotations

import difflib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
    SettingsError,
    TomlConfigSettingsSource,
)

from hotset.daemon.config import ENV_NESTED, ENV_PREFIX, KEYS, DaemonConfig, conflicts, value_of
from hotset.protos.errors import ConfigError

CONFIG_VARIABLE = "HOTSET_CONFIG"
OTHER_VARIABLES = frozenset({CONFIG_VARIABLE, "HOTSET_RUNTIME_DIR", "HOTSET_MLFLOW", "HOTSET_TRACES"})
"""HOTSET_* variables that are no key of the configuration."""
DEFAULT = "default"


class _Settings(DaemonConfig, BaseSettings):
    """DaemonConfig as pydantic-settings' sources want it; never instantiated."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, env_nested_delimiter=ENV_NESTED, env_ignore_empty=True)

    train_arguments: Annotated[tuple[str, ...], NoDecode] = ()


class Given(NamedTuple):
    """A value as it was given, and by what: "--train-after", "HOTSET_TRAIN_AFTER" or "FILE: train_after"."""

    value: Any
    by: str


class Effective(NamedTuple):
    """What holds. `given` says by what, for the keys that are not at their default."""

    config: DaemonConfig
    given: dict[str, str]


def load(flags: Mapping[str, Any] | None = None, file: Path | None = None) -> Effective:
    """Read and check all sources; `flags` are values by key, "rules.horizon".

    Raises ConfigError with a line for each mistake.
    """
    if file is None and os.environ.get(CONFIG_VARIABLE):
        file = Path(os.environ[CONFIG_VARIABLE])
    mistakes: list[str] = []
    given: dict[str, Given] = {}
    # The later wins.
    given |= _file(file, mistakes) if file is not None else {}
    given |= _environment(mistakes)
    given |= {key: Given(value, KEYS[key].flag) for key, value in (flags or {}).items()}
    config = _checked(given, mistakes)
    if config is None or mistakes:
        head = [f"{len(mistakes)} mistakes in the configuration:"] if len(mistakes) > 1 else []
        raise ConfigError("\n".join(head + mistakes))
    return Effective(config, {key: value.by for key, value in given.items()})


def _file(file: Path, mistakes: list[str]) -> dict[str, Given]:
    try:
        # pydantic-settings takes a file that is missing for an empty one.
        file.open("rb").close()
        tree = TomlConfigSettingsSource(_Settings, file)()
    except OSError as error:
        mistakes.append(f"{file}: cannot be read: {error.strerror}")
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        mistakes.append(f"{file}: not TOML: {error}")
        return {}
    found = {key: Given(value, f"{file}: {key}") for key, value in _leaves(tree).items()}
    return _known(found, {key: key for key in KEYS}, mistakes)


def _environment(mistakes: list[str]) -> dict[str, Given]:
    paths = {key.variable: path for path, key in KEYS.items()}
    set_here = {name for name in os.environ if name.startswith(ENV_PREFIX)} - OTHER_VARIABLES
    mistakes += [f"{name}: {_unknown(name, paths, 'variable')}" for name in sorted(set_here - paths.keys())]
    try:
        values = _leaves(EnvSettingsSource(_Settings)())
    except SettingsError:
        # A whole table in one variable, as HOTSET_RULES, which is unknown to us.
        return {}
    return {path: Given(values[path], name) for name, path in paths.items() if name in set_here and path in values}


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by path, as "rules.horizon"."""
    tables = {key.rpartition(".")[0] for key in KEYS}
    leaves: dict[str, Any] = {}
    for name, value in tree.items():
        path = prefix + name
        if isinstance(value, Mapping) and path in tables:
            leaves |= _leaves(value, path + ".")
        else:
            leaves[path] = value
    return leaves


def _known(found: dict[str, Given], names: Mapping[str, str], mistakes: list[str]) -> dict[str, Given]:
    mistakes += [f"{found[key].by}: {_unknown(key, names, 'key')}" for key in found if key not in names]
    return {key: value for key, value in found.items() if key in names}


def _unknown(name: str, names: Iterable[str], what: str) -> str:
    close = difflib.get_close_matches(name, list(names), 1)
    return f"unknown {what}" + (f", did you mean {close[0]}?" if close else "")


def _checked(given: Mapping[str, Given], mistakes: list[str]) -> DaemonConfig | None:
    tree: dict[str, Any] = {}
    for path, value in given.items():
        *tables, last = path.split(".")
        table = tree
        for name in tables:
            table = table.setdefault(name, {})
        table[last] = value.value
    try:
        return DaemonConfig.model_validate(tree)
    except ValidationError as error:
        # What concerns several keys has no location, and is checked only if each of them is right.
        mistakes += [_mistake(e["loc"], e["msg"], given) for e in error.errors(include_url=False) if e["loc"]]
        mistakes += conflicts(tree)
        return None


def _mistake(where: tuple[int | str, ...], what: str, given: Mapping[str, Given]) -> str:
    path = next(path for path in given if path.split(".") == [*where[: path.count(".") + 1]])
    return f"{given[path].by}: {what.removeprefix('Value error, ')}, not {given[path].value!r}"


def as_toml(effective: Effective) -> str:
    """The effective configuration as a file that `--config` takes, each value with where it came from."""
    lines, table = [], ""
    for path in sorted(KEYS, key=lambda path: path.rpartition(".")[0]):
        above, _, name = path.rpartition(".")
        if above != table:
            table = above
            lines += ["", f"[{table}]"]
        value = value_of(effective.config, path)
        text = f"# {name} is unset" if value is None else f"{name} = {_toml(value)}"
        lines.append(f"{text}  # {effective.given.get(path, DEFAULT)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_toml, value)) + "]"
    # JSON's strings are TOML's, but for what JSON may leave alone.
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
