"""What ``brokerctl doctor`` says of dialogs, notifications and the session's bus."""

from __future__ import annotations

import trio

from broker.cli.doctor.finding import Context, FindingState
from broker.cli.doctor.viewer import check_questions
from broker.core.paths import find_paths


def _found(folder):
    environ = {
        "XDG_RUNTIME_DIR": "/run/user/1",
        "HOME": str(folder),
        "PATH": str(folder),
    }
    return trio.run(check_questions, Context(find_paths(environ), environ))


def test_programs_that_notifications_need_are_named(tmp_path):
    programs = [tmp_path / name for name in ("notify-send", "xdg-dbus-proxy")]
    packages = ["libnotify-bin", "xdg-dbus-proxy"]
    for number in range(3):
        warned = [one for one in _found(tmp_path) if one.state is FindingState.WARN]
        mends = [f"sudo apt install {name}" for name in packages[number:]]
        assert [one.mend for one in warned] == mends
        for program in programs[number : number + 1]:
            program.write_text("#!/bin/sh\n")
            program.chmod(0o755)
