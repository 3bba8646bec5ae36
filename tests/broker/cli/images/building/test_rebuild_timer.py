from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from broker.cli.images.building import rebuild_timer
from broker.core.errors import SetupError
from tests.kit.needs import needs, requires


def test_units_are_where_systemd_looks():
    assert rebuild_timer.unit_directory({"HOME": "/h"}) == Path(
        "/h/.config/systemd/user"
    )
    assert rebuild_timer.unit_directory({"XDG_CONFIG_HOME": "/c"}) == Path(
        "/c/systemd/user"
    )


def test_service_runs_this_brokerctl(tmp_path):
    rebuild_timer.write_units(tmp_path, "/opt/a b%c/brokerctl")
    text = (tmp_path / rebuild_timer.SERVICE).read_text()
    assert "ExecStart='/opt/a b%%c/brokerctl' image rebuild\n" in text


@requires("systemd-analyze")
def test_units_are_valid(tmp_path):
    rebuild_timer.write_units(tmp_path, "/bin/true")
    done = subprocess.run(
        [
            "systemd-analyze",
            "verify",
            "--user",
            "--man=no",
            *(
                str(tmp_path / name)
                for name in (rebuild_timer.SERVICE, rebuild_timer.TIMER)
            ),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
    )
    # systemd also speaks of units of other packages, such as two notification services
    # with one name on the bus.
    names = (str(tmp_path), rebuild_timer.SERVICE, rebuild_timer.TIMER)
    mine = [line for line in done.stderr.splitlines() if any(n in line for n in names)]
    assert (done.returncode, mine) == (0, []), done.stderr


@needs("systemctl", "systemd")
async def test_without_a_user_manager_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "none"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(SetupError, match="systemd") as caught:
        await rebuild_timer.switch_timer("on")
    assert "brokerctl image rebuild" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_removing_is_idempotent(tmp_path):
    rebuild_timer.write_units(tmp_path, "/bin/true")
    for _ in range(2):
        rebuild_timer.remove_units(tmp_path)
    assert list(tmp_path.iterdir()) == []


async def test_the_unit_of_a_verb_that_the_manager_runs_has_brokerctl(
    tmp_path, monkeypatch
):
    """Its first argument is no program: the manager runs the verb by its module."""
    calls = tmp_path / "calls"
    systemctl = tmp_path / "bin" / "systemctl"
    systemctl.parent.mkdir()
    systemctl.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{systemctl.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["/opt/vitrail/broker", "image", "timer", "on"])
    await rebuild_timer.switch_timer("on")
    assert f"--user enable --now {rebuild_timer.TIMER}" in calls.read_text()
    text = (tmp_path / "systemd/user" / rebuild_timer.SERVICE).read_text()
    (program,) = re.findall(r"^ExecStart=(.*) image rebuild$", text, re.MULTILINE)
    assert Path(program).name == "brokerctl"
    assert os.access(program, os.X_OK)
