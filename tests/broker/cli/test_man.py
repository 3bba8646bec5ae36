"""``brokerctl man`` shows the pages without man(1)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

from broker.cli.man import command
from broker.cli.verbs import app
from broker.core.errors import RefusedError

ROOT = Path(__file__).parent.parent.parent.parent


def shown(*words):
    done = CliRunner().invoke(command, list(words), catch_exceptions=False)
    assert done.exit_code == 0
    return done.output


def test_the_whole_page_and_the_brokers():
    assert "run, explain and audit" in shown()
    assert "vitrail-local" in shown("vitrail-host")


def test_a_verbs_sections():
    assert "mixer" in shown("audio")
    assert "mixer" not in shown("logs")
    assert "List all leases" in shown("lease", "release")
    with pytest.raises(
        RefusedError, match="does not have a section about 'frobnicate'"
    ):
        shown("frobnicate")


@pytest.mark.parametrize("verb", sorted(set(app.list_commands(None)) - {"help"}))
def test_each_verb_has_a_section(verb):
    assert verb in shown(verb)


@pytest.mark.slow
def test_a_wheel_has_the_pages(tmp_path):
    # A build writes beside its sources, which may be another user's.
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("broker", "policy", "shims", "docs"):
        shutil.copytree(ROOT / name, source / name)
    words = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [sys.executable, *words, "-w", tmp_path, source],
        capture_output=True,
        check=False,
    )
    if b"setuptools" in done.stderr:
        pytest.skip("no setuptools here, and no network to get it")
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "broker/data/man/brokerctl.1.md" in names
    # The catalogues are compiled.
    assert "broker/data/locale/dialog/de.mo" in names
    assert [name for name in names if name.endswith(".po")] == []
