"""The flags of `hotset daemon`, made from the keys of its configuration, and help that shows them in groups."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from hotset.daemon.config import KEYS, Key

OTHER_GROUP = "Options"


class GroupedCommand(TyperCommand):
    """A command whose help lists its options by their panel."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """One section a panel, in the order of the options; those of no panel last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or OTHER_GROUP, []).append(record)
        groups[OTHER_GROUP] = groups.pop(OTHER_GROUP, [])
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)


def with_config_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command, which ends in `**flags`, a flag for each key; what was not given is None."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    flags = [
        inspect.Parameter(_name(key), inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_annotation(key))
        for key in KEYS.values()
    ]
    parameters = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *flags]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    return command


def given_flags(flags: Mapping[str, Any]) -> dict[str, Any]:
    """By key of the configuration, what was given; an empty text or list counts as not given."""
    return {path: flags[_name(key)] for path, key in KEYS.items() if flags.get(_name(key)) not in (None, "", [])}


def _name(key: Key) -> str:
    return key.path.replace(".", "_")


def _annotation(key: Key) -> Any:
    """Texts as they are: the configuration's own checks give better messages than the parser's."""
    default = key.field.default
    text = (
        f"{key.field.description} (default: {_shown(default)})" if default not in (None, ()) else key.field.description
    )
    names = [key.flag]
    kind: Any = str | None
    metavar: str | None = _metavar(key)
    if isinstance(default, bool):
        names, kind, metavar = [f"{key.flag}/--no-{key.flag.removeprefix('--')}"], bool | None, None
    elif isinstance(default, tuple):
        kind = list[str] | None
    return Annotated[
        kind, typer.Option(*names, help=text, metavar=metavar, rich_help_panel=key.option.group, show_default=False)
    ]


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)


def _metavar(key: Key) -> str:
    kind = str(key.field.annotation)
    if "Literal" in kind:
        return kind.partition("[")[2].rstrip("]").replace("'", "").replace(", ", "|")
    names = {"Path": "PATH", "float": "NUMBER", "int": "INTEGER"}
    return next((metavar for name, metavar in names.items() if name in kind), "TEXT")
