from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.errors import SetupError, UpstreamError
from broker.launch.image.build import bootstrap_failed, bootstrap_words
from broker.launch.image.packages import Archive
from broker.launch.image.store import ImageSpec

ARCHIVE = Archive("http://m/d", "", ("main",), {"Acquire::Check-Date": "false"})


def test_command_line_names_suite_packages_options_and_sources():
    words = bootstrap_words(
        ImageSpec(packages=("foot",)), ARCHIVE, Path("/w"), Path("/s")
    )
    assert "--include=foot,python3,waypipe" in words
    assert '--aptopt=Acquire::Check-Date "false"' in words
    assert words[-4:-1] == ["trixie", "/w/root.tar", "deb http://m/d trixie main"]


@pytest.mark.parametrize(
    ("said", "kind", "text", "hint"),
    [
        (["E: Unable to locate package fooot"], SetupError, "no package fooot", "name"),
        (["E: Release file for x is expired"], SetupError, "expired", "clock"),
        (
            ["noise", "E: mirror gone", "I: done"],
            UpstreamError,
            "mirror gone",
            "network",
        ),
        (["only noise"], UpstreamError, "only noise", "network"),
    ],
)
def test_failures_name_their_cause(said, kind, text, hint):
    error = bootstrap_failed(said)
    assert type(error) is kind
    assert text in str(error)
    assert hint in error.hint
