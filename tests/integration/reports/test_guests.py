"""Bug reports of programs in containers and machines, replayed: docs/reports.md."""

from __future__ import annotations

import pytest

from shims.guest import host_files

RULE = "CET-1CEST,M3.5.0,M10.5.0/3"


@pytest.mark.parametrize(
    ("name", "there", "given"),
    [
        ("Europe/Berlin", True, "Europe/Berlin"),
        ("Europe/Berlin", False, RULE),
        ("../../etc/hostname", True, RULE),
        ("", True, RULE),
    ],
)
def test_a_guest_that_knows_the_zone_has_its_name(
    tmp_path, monkeypatch, name, there, given
):
    monkeypatch.setattr(host_files, "ZONES", str(tmp_path))
    (tmp_path / "Europe").mkdir()
    if there:
        (tmp_path / "Europe/Berlin").write_bytes(b"TZif2")
    told = {"TZ": RULE, "VITRAIL_TIME_ZONE": name}
    assert host_files.with_locales({}, told) == {"TZ": given}
