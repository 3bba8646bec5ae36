"""Orders about services are carried out without an event loop."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    ["desktop_service", "loopback_ports", "secrets", "service_errands", "agent_use"],
)
def test_a_child_has_no_event_loop(module):
    """Its import takes longer than most orders."""
    code = f"import sys, broker.session.user_services.{module}; sys.exit('trio' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
