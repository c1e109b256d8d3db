"""Where a decode process listens, from its command line."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from hotset.protos.errors import ConfigError
from hotset.protos.transport import CurveKeys
from hotset.protos.transport.keys import server_keys


class Listening(TypedDict):
    """Keyword arguments of a ControlLink."""

    endpoint: str | None
    keys: CurveKeys | None


def listening(endpoint: str | None, folder: Path | None) -> Listening:
    """What `--listen-tcp` and `--keys` ask for; without them a private socket. Raises HotsetError."""
    if endpoint is None:
        if folder is not None:
            raise ConfigError("--keys is for --listen-tcp; a socket of your own needs none")
        return {"endpoint": None, "keys": None}
    if not endpoint.startswith("tcp://"):
        raise ConfigError(f"--listen-tcp: {endpoint} is not of the form tcp://ADDRESS:PORT")
    if folder is None:
        raise ConfigError("--listen-tcp needs --keys DIR; `hotset keys DIR` makes them")
    return {"endpoint": endpoint, "keys": server_keys(folder)}
