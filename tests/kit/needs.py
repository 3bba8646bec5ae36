"""Marks of tests that need a program of a Debian package, or a newer kernel."""

from __future__ import annotations

import shutil
from pathlib import Path

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


def requires(*names: str) -> pytest.MarkDecorator:
    """Skip where a program, or a file by its absolute path, is missing."""
    absent = [
        name
        for name in names
        if not (Path(name).exists() if name.startswith("/") else shutil.which(name))
    ]
    return pytest.mark.skipif(bool(absent), reason=f"missing: {', '.join(absent)}")


NEEDS_JAIL = needs("bwrap", "bubblewrap")
"""A test that starts a program in a jail; 'make unit' runs before packages come."""

NEEDS_COMPILER = needs("gcc", "gcc")
"""A test that compiles a program; 'make unit' needs no compiler."""

NEEDS_VM = pytest.mark.usefixtures("needs_vm")
"""A test that starts a virtual machine."""

FORKING_VM = pytest.mark.usefixtures("forking_vm")
"""The same, and a machine may be the copy of a parent."""

FOLDERS_VM = pytest.mark.usefixtures("folders_vm")
"""The same, and folders are shared with it."""
