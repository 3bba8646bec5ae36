"""Rules of Landlock for objects that the kernel makes again."""

from __future__ import annotations

import sys

import pytest

from broker.helpers import landlock
from tests.kit.changing_machine import NEEDS, own_machine
from tests.kit.wayland.compositor import short_directory

pytestmark = [
    NEEDS,
    pytest.mark.skipif(not landlock.version(), reason="no Landlock"),
]

READS = """
import os
from pathlib import Path
from tests.kit.changing_machine import remount_proc

def read(path):
    try:
        return bool(Path(path).read_text())
    except OSError as error:
        return error.strerror

def look():
    print(*(read(path) for path in {paths!r}), sep=", ")

{confine}
look()
remount_proc()
look()
"""
OWN_NUMBERS = "/proc/self/fdinfo/0"
BOOT = "/proc/sys/kernel/random/boot_id"
OTHERS = "/proc/1/status"
AUTHORITY = """
from broker.authority.reachable_files import keep_to_own_files
from broker.core.paths import find_paths
from broker.helpers.filters.session_filters import authority_filter
from broker.helpers.process.hardening import harden_authority
harden_authority(authority_filter())
keep_to_own_files(find_paths(), None)
"""
VIEWER = """
from broker.helpers.filters.viewer_filter import viewer_filter
from broker.helpers.viewer_confinement import confine_viewer
confine_viewer(viewer_filter(os.getpid()), [], [])
"""
HELPER = """
from broker.helpers.helper_confinement import confine_helper
confine_helper()
"""


def seen(confine, monkeypatch, *paths):
    """What a confined process reads, before procfs makes its directories again and after."""
    code = READS.format(paths=paths, confine=confine)
    with short_directory() as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(base))
        monkeypatch.setenv("HOME", str(base))
        done = own_machine(sys.executable, "-c", code, seconds=60)
    assert done.returncode == 0, done.stdout
    return done.stdout.splitlines()


@pytest.mark.parametrize("confine", [AUTHORITY, VIEWER], ids=["authority", "viewer"])
def test_rules_for_procfs_hold_when_it_makes_its_directories_again(
    confine, monkeypatch
):
    """As after drop_caches and wherever memory was short: brokers became deaf."""
    paths = [OWN_NUMBERS, BOOT, OTHERS]
    if confine == VIEWER:  # it looks whether a socket is served
        paths.append("/proc/self/net/unix")
    before, after = seen(confine, monkeypatch, *paths)
    assert before.startswith("True, True, Permission denied")
    assert before.endswith("True") or confine == AUTHORITY
    assert after == before


def test_helpers_need_no_rule_for_procfs(monkeypatch):
    before, after = seen(HELPER, monkeypatch, OWN_NUMBERS, BOOT)
    assert before == after == "Permission denied, Permission denied"
