"""Options of `hotset decode` that a user may get wrong."""

from __future__ import annotations

import pytest

from hotset.ops.commands.decode import decode
from hotset.protos.errors import ConfigError


@pytest.mark.parametrize("told", ["3", "-1", "on"])
def test_a_wrong_distance_is_named(told: str) -> None:
    with pytest.raises(ConfigError, match=f"must be off, 1 or 2, not {told}"):
        decode(prompt=["x"], lookahead=told, listen=False)
