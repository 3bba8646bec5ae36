"""A notification of brokerctl where notify-send is there and does not work."""

from __future__ import annotations

import os

from broker.cli.notifications.notification import DesktopNotification


async def test_a_closed_notification_that_nobody_showed_prints_nothing(
    tmp_path, capsys
):
    program = tmp_path / "notify-send"
    program.write_text("#!/bin/sh\necho 0\nexit 1\n")
    program.chmod(0o755)
    note = DesktopNotification({**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"})
    await note.show("Opening a.pdf", "copy the files")
    assert "Opening a.pdf: copy the files" in capsys.readouterr().err
    await note.close()
    assert capsys.readouterr().err == ""


async def test_a_failure_stays_and_is_no_emergency(tmp_path):
    """GNOME Shell would show no other notification until it is closed."""
    calls = tmp_path / "calls"
    program = tmp_path / "notify-send"
    program.write_text(f'#!/bin/sh\necho "$*" >>{calls}\necho 7\n')
    program.chmod(0o755)
    note = DesktopNotification({**os.environ, "PATH": f"{tmp_path}:/usr/bin:/bin"})
    await note.show("Cannot stop work", "it does not answer", stays=True)
    await note.ask("work did not start", "no image", {"again": "Try again"})
    lines = calls.read_text().splitlines()
    assert len(lines) == 2
    assert all("--urgency=normal --expire-time=0 " in line for line in lines)
