"""The session bus of boxes and containers: what starts it, and which services it has."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from broker.host.launchers.session_bus import SCRIPT, SERVICES, SESSION, session_files
from shims.guest.tools import BUS_SERVICES


def test_a_box_has_the_services_of_a_machine() -> None:
    files = session_files()
    assert files.pop(SESSION) == SCRIPT
    assert files.keys() == {f"{SERVICES}/{name}.service" for name in BUS_SERVICES}
    for name, verb in BUS_SERVICES.items():
        text = files[f"{SERVICES}/{name}.service"]
        assert f"Name={name}\n" in text
        assert text.endswith(f"/run/vitrail/vitrail-files {verb}\n")


def test_without_a_bus_the_program_runs_with_its_words_and_input(
    tmp_path: Path,
) -> None:
    """Where the files are not there, as in a box without a record."""
    words = ["/bin/sh", "-c", SCRIPT, "sh", "sh", "-c", 'cat; echo "$0 $*"']
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [*words, "a b", "-c", "$HOME", "'"],
        input=b"input ",
        env=env,
        capture_output=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, b"input a b -c $HOME '\n"), done
    assert list(tmp_path.iterdir()) == []
