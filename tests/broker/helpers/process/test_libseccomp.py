"""The two Python bindings of libseccomp give the same filters."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from broker.helpers.filters import (
    box_filters,
    keeper_filter,
    libseccomp,
    program_filters,
    seccomp,
    session_filters,
)
from broker.helpers.worker_jail import worker_filter

FILTERS = (
    (worker_filter, "worker_filter"),
    (keeper_filter, "keeper_filter"),
    (program_filters, "vmm_filter"),
    (program_filters, "renderer_filter"),
    (box_filters, "box_filter"),
)


def debians():
    """The module of Debian's python3-seccomp, which a .venv does not see."""
    version = f"cpython-{sys.version_info.major}{sys.version_info.minor}"
    found = sorted(Path("/usr/lib/python3/dist-packages").glob(f"seccomp.{version}-*"))
    if not found:
        pytest.skip(f"python3-seccomp for {version} is not installed")
    spec = importlib.util.spec_from_file_location("seccomp", found[0])
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def programs(monkeypatch, binding):
    for module in (*(seccomp, session_filters, program_filters, box_filters),):
        monkeypatch.setattr(module, "libseccomp", binding)
    return {name: getattr(module, name).__wrapped__() for module, name in FILTERS}


def test_both_bindings_compile_the_same_programs(monkeypatch):
    ours = programs(monkeypatch, importlib.import_module("pyseccomp"))
    theirs = programs(monkeypatch, debians())
    assert all(len(program) > 100 for program in ours.values())
    assert ours == theirs


def test_upstreams_binding_is_preferred(monkeypatch):
    monkeypatch.setitem(sys.modules, "seccomp", sys)
    assert libseccomp._binding() is sys
    monkeypatch.setitem(sys.modules, "seccomp", None)
    assert libseccomp._binding().__name__ == "pyseccomp"


_LOAD = """
import sys
started = []
sys.addaudithook(lambda name, args: name == "subprocess.Popen" and started.append(args))
from ctypes.util import find_library as before
from broker.helpers.filters.libseccomp import seccomp
from ctypes.util import find_library
assert seccomp.SyscallFilter(seccomp.ALLOW) is not None
print(started, find_library is before)
"""


def test_the_binding_is_loaded_without_another_program():
    words = [sys.executable, "-c", _LOAD]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "[] True\n", done.stderr
