"""Whether this machine can start systemd-nspawn as an ordinary user."""

from __future__ import annotations

import shutil

import pytest

from broker.host.launchers.nspawn.process import may_divide


def skip_without_nspawn() -> None:
    """Skip the test where a container of systemd-nspawn cannot be had.

    Without systemd as process 1 the tests need a separate control group:
    ``.ci/as-user`` makes one where root runs it.
    """
    if None in (shutil.which("systemd-nspawn"), shutil.which("newuidmap")):
        pytest.skip("systemd-container or uidmap is not installed")
    if not may_divide():
        pytest.skip("this process's control group may not be divided")
