"""Is the daemon of this container healthy? `python -m hotset.daemon.probe` ends with status 0 if so, else 1 and why.

For health checks that are commands. It imports nothing of ours, as it runs every few seconds.
"""

from __future__ import annotations

import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping

PATIENCE_SECONDS = 4.0
_ALL = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def url(environment: Mapping[str, str]) -> str:
    """Where a daemon answers that takes its address and port from the same variables."""
    host = environment.get("HOTSET_METRICS_HOST", "")
    host = _ALL.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{environment.get('HOTSET_METRICS_PORT') or 9747}/healthz"


def trouble(environment: Mapping[str, str] = os.environ) -> str:
    """What is wrong; empty if nothing."""
    # Whatever proxy the variables name is not for us.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url(environment), timeout=PATIENCE_SECONDS).close()
    except urllib.error.HTTPError as error:
        return error.read(4096).decode(errors="replace").strip()
    except OSError as error:
        return f"{url(environment)}: {error}"
    return ""


if __name__ == "__main__":
    sys.exit(trouble() or 0)
