"""Marks of tests that need a program of a Debian package, or a newer kernel."""

from __future__ import annotations

import shutil

import pytest

from broker.net.peers.credentials import can_ask_pid_namespaces

PID_NAMESPACES = pytest.mark.skipif(
    not can_ask_pid_namespaces(),
    reason="this kernel cannot tell a process's pid namespace",
)
"""Linux 6.11 and later."""


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Skip where the program is missing, and name its package."""
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"needs {program} (package {package})"
    )


NEEDS_JAIL = needs("bwrap", "bubblewrap")
"""A test that starts a program in a jail; 'make unit' runs before packages come."""

NEEDS_COMPILER = needs("gcc", "gcc")
"""A test that compiles a program; 'make unit' needs no compiler."""
