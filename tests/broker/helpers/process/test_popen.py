"""Whether a program is installed."""

from __future__ import annotations

import pytest

from broker.core.errors import SetupError
from broker.helpers.process.popen import require_installed


def test_a_folder_that_may_not_be_read_is_passed_over(tmp_path):
    """As root's in the PATH of a user that root has become; it was a traceback once."""
    closed, folder = tmp_path / "closed", tmp_path / "bin"
    for one in (closed, folder):
        one.mkdir()
        (one / "tool").touch(mode=0o755)
    closed.chmod(0)
    require_installed("tool", {"PATH": f"{closed}:{folder}"})
    require_installed(str(folder / "tool"))
    (folder / "tool").chmod(0o644)
    with pytest.raises(SetupError, match="not installed"):
        require_installed("tool", {"PATH": f"{folder}"})
    closed.chmod(0o700)
