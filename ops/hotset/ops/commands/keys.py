"""`hotset keys`: CURVE certificates for tcp endpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

HELP = """Make the keys that tcp:// endpoints need: a pair for the decode process, and one for each client.

DIR then holds server.key and server.key_secret, client.key and client.key_secret. The decode process lets in every
public key (*.key) in its DIR but its own. On another machine a client needs client.key_secret and server.key
only; never copy server.key_secret. To shut a client out, remove its .key and start the decode process anew.
Nothing is overwritten.

Example:

    hotset keys keys
    hotset decode --listen-tcp tcp://127.0.0.1:5757 --keys keys --prompt "Why is the sky blue?"
    hotset daemon --endpoint tcp://127.0.0.1:5757 --keys keys
"""


def register(app: typer.Typer) -> None:
    """Add the command to the `hotset` app."""
    app.command("keys", help=HELP)(keys)


def keys(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Made with mode 0700 if it is not there.")],
    client: Annotated[
        list[str] | None, typer.Option(help="Only add a client of this name to the allow-list; may be repeated.")
    ] = None,
) -> None:
    """See HELP."""
    from hotset.protos.errors import ConfigError
    from hotset.protos.transport.keys import CLIENT, SERVER, make_keys

    if wrong := [name for name in client or () if name == SERVER or not name.replace("-", "").isalnum()]:
        raise ConfigError(f"{wrong[0]!r} is no name for a client; use letters, digits and -, and not {SERVER!r}")
    for name in client or (SERVER, CLIENT):
        for path in make_keys(folder, name):
            typer.echo(path)
