"""Tables of docs that are made from code: `python -m hotset.ops.pages` in the repository writes them anew.

A table is found by its header line, and ends at the next empty line.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from hotset.daemon.config import KEYS, Key
from hotset.daemon.events import EVENTS
from hotset.protos import metrics

KEYS_HEADER = "| key | default | reload | meaning |"
EVENTS_HEADER = "| event | meaning |"
METRICS_HEADER = "| metric | kind | more labels | meaning |"


def tables() -> dict[str, list[str]]:
    """All tables by page, in the order in which they stand there; each is one text."""
    keys = _table(KEYS_HEADER, (f"| `{path}` | {_default(key)} | {'yes' if key.option.live else 'no'} | "
                                f"{key.field.description} |" for path, key in KEYS.items()))  # fmt: skip
    events = _table(EVENTS_HEADER, (f"| `{name}` | {text} |" for name, text in EVENTS.items()))
    return {
        "docs/daemon.md": [keys, events],
        "docs/metrics.md": [_metrics(metrics.SESSION), _metrics(metrics.PROCESS)],
    }


def written(page: str, anew: Iterable[str]) -> str:
    """`page` with each of the tables in the place of the one of the same header, in order."""
    done, rest = "", page
    for table in anew:
        before, header, after = rest.partition(table.partition("\n")[0])
        if not header:
            raise ValueError(f"no table {table.partition(chr(10))[0]!r} left on the page")
        done += before + table
        rest = "\n\n" + after.partition("\n\n")[2]
    return done + rest


def _metrics(listed: Iterable[metrics.Metric]) -> str:
    rows = []
    for metric in listed:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        rows.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return _table(METRICS_HEADER, rows)


def _table(header: str, rows: Iterable[str]) -> str:
    return "\n".join([header, "|" + "---|" * (header.count("|") - 1), *rows])


def _default(key: Key) -> str:
    default = key.field.default
    if default in (None, ()):
        return "unset" if default is None else "empty"
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


def main() -> None:
    """Write the pages below the working folder."""
    for name, anew in tables().items():
        path = Path(name)
        path.write_text(written(path.read_text(), anew))


if __name__ == "__main__":
    main()
