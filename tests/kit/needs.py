"""A mark for tests that need a program of a Debian package."""

from __future__ import annotations

import shutil

import pytest


def needs(program: str, package: str) -> pytest.MarkDecorator:
    """Skip where the program is missing, and name its package."""
    return pytest.mark.skipif(
        shutil.which(program) is None, reason=f"needs {program} (package {package})"
    )
