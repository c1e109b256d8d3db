"""Where a session leaves its log and status."""

from __future__ import annotations

import time
from pathlib import Path

from hotset.protos.errors import HotsetError
from hotset.protos.messages import Hello


def new_folder(log_dir: Path, hello: Hello) -> Path:
    """A fresh folder for this session: another daemon may have logged an earlier part of it."""
    stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    stem = f"{stamp}-{hello.pid}-{''.join(c for c in hello.session[:8] if c.isalnum())}"
    for count in range(1, 1000):
        folder = (log_dir / (stem if count == 1 else f"{stem}-{count}")).absolute()
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise HotsetError(f"cannot write logs to {folder}: {error.strerror}") from None
        return folder
    raise HotsetError(f"{log_dir} is full of logs of this very second")
