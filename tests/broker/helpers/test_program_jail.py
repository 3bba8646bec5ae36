"""What a jail of one of our programs shows, with a real bubblewrap."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from broker.helpers.filters.box_filters import box_filter
from broker.helpers.tools.program_jail import program_jail
from broker.ipc.sealed_memfd import sealed

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="no bubblewrap")


def seen(shown: list[Path], path: Path) -> str:
    """What a program in a jail reads in a file."""
    rules = sealed([box_filter(unix=False)])
    words = program_jail(rules, shown, None, network=False)
    try:
        return subprocess.run(
            [*words, "cat", str(path)],
            pass_fds=[rules],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
            timeout=60,
        ).stdout
    finally:
        os.close(rules)


def test_a_link_in_a_directory_that_is_shown_leads_to_what_is_shown_for_it(tmp_path):
    """An environment of Python may be a link to one elsewhere."""
    checkout, elsewhere = tmp_path / "checkout", tmp_path / "elsewhere"
    checkout.mkdir()
    (elsewhere / "lib").mkdir(parents=True)
    (elsewhere / "lib/file").write_text("text")
    environment = checkout / "environment"
    environment.symlink_to(elsewhere)
    shown = [checkout, environment, environment / "lib"]
    assert seen(shown, environment / "lib/file") == "text"
