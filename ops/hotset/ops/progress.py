"""Progress bars on the terminal, and the same in a file for whoever started the process."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hotset.ops.run_folder import PROGRESS_FILE
from hotset.protos.discovery import write_atomically


@contextmanager
def bars(console: Console, *, log: Path | None = None, prefix: str = "") -> Iterator[Callable[[str, int, int], None]]:
    """Progress bars, one a name: call with (name, done, total). With `log`, PROGRESS_FILE there tells the same."""
    columns: Any = (TextColumn("{task.description:<15}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}

        def show(name: str, done: int, total: int) -> None:
            name = prefix + name
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=total)
                if not console.is_terminal:  # where bars only appear when all is over
                    console.print(f"{name}: begins, {total} to do")
            progress.update(tasks[name], completed=done, total=total)
            if log is not None:
                state = {task.description: [task.completed, task.total] for task in progress.tasks}
                write_atomically(log / PROGRESS_FILE, json.dumps(state))

        yield show
