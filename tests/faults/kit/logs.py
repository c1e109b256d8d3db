"""Logs of sessions that ended badly: whatever is there can be read and is what was played."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sandbox import Hotset

from hotset.predictor.trace import Trace, read_trace


def log_folders(hotset: Hotset) -> list[Path]:
    """Trace folders of all sessions that have at least one part on disk."""
    return sorted({part.parent for part in hotset.logs.glob("*/trace/*.parquet")})


def check_logs(hotset: Hotset, recorded: Trace) -> int:
    """Compare every log with what was played, and have `hotset trace info` read them; returns their number."""
    folders = log_folders(hotset)
    for folder in folders:
        for sequence in read_trace(folder).sequences:
            played = recorded.sequences[sequence.sequence % len(recorded.sequences)]
            np.testing.assert_array_equal(sequence.pages, played.pages[sequence.steps])
            np.testing.assert_array_equal(sequence.scores, played.scores[sequence.steps])
    if folders:
        info = hotset.run("trace", "info", *folders)
        assert info.returncode == 0, info.stderr
    return len(folders)
