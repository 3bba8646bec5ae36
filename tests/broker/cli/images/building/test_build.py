from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from broker.cli.images.building.build import (
    _run_bootstrap,
    bootstrap_failed,
    bootstrap_words,
)
from broker.core.errors import SetupError, UpstreamError
from broker.host.images.packages import Archive
from broker.host.images.store import ImageSpec

ARCHIVE = Archive("http://m/d", "", ("main",), {"Acquire::Check-Date": "false"})


def test_command_line_names_suite_packages_options_and_sources():
    words = bootstrap_words(
        ImageSpec(packages=("foot",)), ARCHIVE, Path("/w"), Path("/s")
    )
    assert "--include=foot,python3,waypipe" in words
    assert '--aptopt=Acquire::Check-Date "false"' in words
    assert words[-4:-1] == ["trixie", "/w/root.tar", "deb http://m/d trixie main"]


@pytest.mark.parametrize("name", ["g++", "lib.+6", "gir1.2-gtk-3.0"])
def test_a_name_is_no_expression_of_apt_s(name):
    """apt-get(8) would install every package that fits one that has no package."""
    words = bootstrap_words(
        ImageSpec(packages=(name,)), ARCHIVE, Path("/w"), Path("/s")
    )
    (include,) = (word for word in words if word.startswith("--include="))
    word = next(w for w in include[10:].split(",") if w not in ("python3", "waypipe"))
    assert word.startswith("^")
    assert word.endswith("$")
    fits = [p for p in (name, "libstdc++6", "gir1x2-gtk-3.0") if re.search(word, p)]
    assert fits == [name]
    assert (
        f"does not contain the package {name}"
        in bootstrap_failed([f"E: Unable to locate package {word}"]).message
    )


@pytest.mark.parametrize(
    ("said", "kind", "text", "hint"),
    [
        (
            ["E: Unable to locate package fooot"],
            SetupError,
            "does not contain the package fooot",
            "name",
        ),
        (["E: Release file for x is expired"], SetupError, "expired", "clock"),
        (
            ["noise", "E: mirror gone", "I: done"],
            UpstreamError,
            "mirror gone",
            "network",
        ),
        (["only noise"], UpstreamError, "only noise", "network"),
        (
            [
                "Setting up wonky (1.0) ...",
                "wonky: no such group",
                "dpkg: error processing package wonky:amd64 (--configure):",
                " installed wonky package post-installation script returned 1",
                "Errors were encountered while processing:",
                " wonky:amd64",
                "E: Sub-process env returned an error code (1)",
            ],
            UpstreamError,
            "the package wonky:amd64 cannot be installed in the image: installed wonky",
            "wonky: no such group",
        ),
    ],
)
def test_failures_name_their_cause(said, kind, text, hint):
    error = bootstrap_failed(said)
    assert type(error) is kind
    assert text in str(error)
    assert hint in error.hint


async def test_steps_are_told_in_the_users_words():
    lines = (
        "I: finding correct signed-by value...",
        "I: downloading packages with apt...",
        "I: running special hook: copy-in",
        "I: installing remaining packages inside the chroot...",
        "I: creating tarball...",
    )
    told = []
    await _run_bootstrap(["printf", "%s\\n", *lines], os.environ, told.append)
    assert told == ["downloading packages", "installing packages", "creating tarball"]
