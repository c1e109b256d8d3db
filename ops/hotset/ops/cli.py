"""The `hotset` command: one module a sub-command, imported when the command line is built, heavy parts later."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys

import typer

from hotset.ops import commands
from hotset.protos.errors import HotsetError

HELP = """Memory-orchestrated sparse serving: the right KV pages, already where the kernel needs them.

A decode process runs by itself (`hotset decode`); a sidecar (`hotset daemon`) finds it, logs what it touches,
learns which pages will be used again, and steers what stays in fast memory.

Example: hotset demo
"""


def build() -> typer.Typer:
    """The application with every command in `hotset.ops.commands`, in name order."""
    app = typer.Typer(name="hotset", help=HELP, no_args_is_help=True, pretty_exceptions_enable=False,
                      add_completion=False, rich_markup_mode=None)  # fmt: skip
    for module in sorted(pkgutil.iter_modules(commands.__path__), key=lambda m: m.name):
        importlib.import_module(f"{commands.__name__}.{module.name}").register(app)
    return app


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    # Torch's threads spin while they wait. Where cores are shared, as with a training child beside a decode
    # process, that made small products 10 times slower; it must be said before torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        build()()
    except HotsetError as error:
        print(f"hotset: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (ModuleNotFoundError, RuntimeError) as error:
        if not (why := _unusable(error)):
            raise
        print(f"hotset: {why}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output has gone; say nothing more, also not at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def _unusable(error: Exception) -> str:
    """What is wrong with this installation, that it cannot be imported; empty if that is not it."""
    missing = (error.name or "hotset") if isinstance(error, ModuleNotFoundError) else "hotset"
    if missing.partition(".")[0] != "hotset":
        # The image of the daemon comes without torch.
        return f"this needs {missing}, which is not installed here; install hotset with all its dependencies"
    if "no locator available" in str(error):
        return ("compiled code can be kept neither beside the sources nor in your home folder; "
                "set NUMBA_CACHE_DIR to a folder that you may write")  # fmt: skip
    return ""
