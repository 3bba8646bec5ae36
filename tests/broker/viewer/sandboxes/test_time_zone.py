"""The desktop's time zone as a rule that a guest without a database understands."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.core.errors import SetupError
from broker.viewer.sandboxes import time_zone as time_zones
from broker.viewer.sandboxes.time_zone import (
    locale_environment,
    time_zone,
    zone_environment,
)


def viewer(**looks):
    return SimpleNamespace(looks=tuple(looks.items()))


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("Europe/Berlin", "CET-1CEST,M3.5.0,M10.5.0/3"),
        ("Asia/Kathmandu", "<+0545>-5:45"),
        ("UTC", "UTC0"),
    ],
)
def test_the_rule_of_a_zone_gives_its_time(name, rule):
    path = Path("/usr/share/zoneinfo", name)
    if not path.exists():
        pytest.skip("tzdata is not installed")
    assert time_zone(path) == rule
    shown = [
        subprocess.run(
            ["date", "-d", "@1700000000", "+%F %T"],
            env={**os.environ, "TZ": zone},
            capture_output=True,
            check=True,
        ).stdout
        for zone in (rule, f":{path}")
    ]
    assert shown[0] == shown[1]


def test_a_program_has_the_zone_of_its_start_and_only_where_the_record_says_so(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(time_zones, "LOCALTIME", path := tmp_path / "localtime")
    for rule in ("CET-1", "EST5EDT,M3.2.0,M11.1.0"):
        path.write_bytes(b"TZif2\n" + rule.encode() + b"\n")
        assert zone_environment("desktop") == {"TZ": rule}
    assert zone_environment("utc") == {}


def test_a_program_has_the_locale_of_its_start_and_only_where_the_record_says_so(
    tmp_path, monkeypatch
):
    path = tmp_path / "locale"
    monkeypatch.setattr(time_zones, "LOCALES", (tmp_path / "none", path))
    assert locale_environment(viewer(language="desktop")) == {}
    path.write_text('# ours\nLANG=de_DE.UTF-8\nLC_TIME="fr_FR.UTF-8"\nLANGUAGE=a\n')
    told = {"LANG": "de_DE.UTF-8", "LC_TIME": "fr_FR.UTF-8"}
    assert locale_environment(viewer(language="desktop")) == told
    path.write_text("LANG=ja_JP.UTF-8\nLC_ALL=a b\n\xff\n", "latin-1")
    assert locale_environment(viewer(language="desktop")) == {"LANG": "ja_JP.UTF-8"}
    assert locale_environment(viewer(language="pl_PL")) == {"LANG": "pl_PL"}
    assert locale_environment(viewer()) == {}


def test_without_a_file_it_is_utc(tmp_path):
    assert time_zone(tmp_path / "localtime") == "UTC0"


@pytest.mark.parametrize(
    "content", [b"", b"TZif2", b"TZif2\n\n", b"no zone\nUTC0\n", b"TZif2\na b\n"]
)
def test_a_malformed_zone_is_an_error(tmp_path, content):
    (tmp_path / "localtime").write_bytes(content)
    with pytest.raises(SetupError, match="is not a time zone file"):
        time_zone(tmp_path / "localtime")
