"""Reference counts of groups."""

from __future__ import annotations

import pytest

from hotset.protos.errors import CapacityError
from hotset.runtime.groups import GroupTable, Sequence


def test_allocate_share_release() -> None:
    table = GroupTable(2)
    first = table.allocate()
    table.share([first])
    assert table.release([first]) == []
    assert table.release([first]) == [first]
    assert table.free_groups == 2


def test_exhaustion_says_what_to_do() -> None:
    table = GroupTable(1)
    table.allocate()
    with pytest.raises(CapacityError, match="--max-tokens"):
        table.allocate()


def test_free_groups_cannot_be_shared_or_released() -> None:
    table = GroupTable(1)
    with pytest.raises(ValueError, match="free"):
        table.share([0])
    with pytest.raises(ValueError, match="free"):
        table.release([0])


def test_integrity_notices_a_leaked_reference() -> None:
    table = GroupTable(2)
    sequence = Sequence(0, 1, groups=[table.allocate()])
    table.check_integrity([sequence])
    table.allocate()
    with pytest.raises(AssertionError, match="reference counts"):
        table.check_integrity([sequence])
