"""Orders about services are carried out without an event loop."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    ["calls", "loopback_ports", "secrets", "errands.service_errands", "ssh.agent_use"],
)
def test_a_child_has_no_event_loop(module):
    """Its import takes longer than most orders."""
    code = f"import sys, broker.session.{module}; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
