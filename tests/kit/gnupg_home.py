"""A user with gpg, whose backups are closed by a key or a passphrase."""

from __future__ import annotations

import shutil
import subprocess
from contextlib import contextmanager

import pytest


@contextmanager
def gnupg_home(tmp_path, monkeypatch):
    """Directories of a user, and a file ``passphrase``; gpg's agent ends with the block."""
    if shutil.which("gpg") is None:
        pytest.skip("needs gpg")
    (tmp_path / "gnupg").mkdir(mode=0o700)
    # As quick as it goes: gpg takes long for a passphrase otherwise, as it should.
    (tmp_path / "gnupg/gpg.conf").write_text("s2k-count 1024\n")
    (tmp_path / "gnupg/gpg-agent.conf").write_text("s2k-count 65536\n")
    monkeypatch.setenv("GNUPGHOME", str(tmp_path / "gnupg"))
    for name in ("config", "state", "data", "cache"):
        monkeypatch.setenv(f"XDG_{name.upper()}_HOME", str(tmp_path / name))
    monkeypatch.setenv("XDG_CONFIG_DIRS", str(tmp_path / "none"))
    (tmp_path / "passphrase").write_text("correct horse")
    yield
    subprocess.run(["gpgconf", "--kill", "all"], check=False)
