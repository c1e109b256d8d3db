"""`hotset detach`: make a decode process's controller let go."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hotset.ops.commands.daemon import load_keys

HELP = """Take the lease of a decode process from the daemon that holds it.

The request goes to the decode process, which tells its controller to let go; that daemon closes its log and
does not come back to this process. Decoding goes on with the built-in policy. Whoever may open the socket
may do this: it is your own (mode 0700) or, over tcp, on the allow-list.

Example:

    hotset detach 4711
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("detach", help=HELP)(detach)


def detach(
    target: Annotated[str, typer.Argument(help="A pid or an endpoint.")],
    keys: Annotated[Path | None, typer.Option(help="Folder with client.key_secret and server.key, for tcp://.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object, for programs.")] = False,
) -> None:
    """See HELP."""
    import json

    from hotset.ops import runtimes
    from hotset.protos.messages import Ack, Detach

    with runtimes.observing(target, load_keys(keys)) as (connection, hello):
        connection.send(Detach(target="controller", reason="hotset detach"))
        answer = runtimes.wait_for(connection, Ack, of="detach")
        if answer is None:
            raise runtimes.NotAnsweringError(f"{target} did not answer; look again with `hotset ps`")
        told = {"pid": hello.pid, "controller": hello.holder, "detached": answer.accepted}
        typer.echo(json.dumps(told) if as_json else answer.reason)
