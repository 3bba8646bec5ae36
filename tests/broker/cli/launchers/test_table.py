"""Each kind that brokerctl starts has a launcher here, and no other has."""

from __future__ import annotations

import pytest

from broker.cli.launchers.table import launcher_of
from policy.records.kinds import KINDS


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)
def test_a_kind_is_run_or_made_here_as_its_row_says(kind):
    launcher = launcher_of(kind)
    assert (launcher.run is not None) == kind.holds
    assert (launcher.make is not None) == (kind.boots and not kind.homes)
