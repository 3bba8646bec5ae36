"""The SELinux module compiles with the reference policy."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import broker

SOURCES = Path(broker.__file__).parent / "data/security/selinux"
MAKEFILE = Path("/usr/share/selinux/devel/Makefile")


@pytest.mark.skipif(not MAKEFILE.exists(), reason="selinux-policy-dev is missing")
def test_module_compiles(tmp_path):
    for path in SOURCES.iterdir():
        shutil.copy(path, tmp_path)
    argv = ["make", "-f", MAKEFILE, "vitrail.pp"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "vitrail.pp").read_bytes()
