"""The hook as it is installed: one file, made of the modules of ``shims/hooks``."""

from __future__ import annotations

import importlib.util
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from shims.bundle import hook_program
from tests.kit.shims import programs_directory

_CONTAINERS, _DOMAINS = "vitrail_oci_hook.py", "vitrail"
"""The names in the directories of Podman and libvirt."""


def _write(folder: Path) -> None:
    for name in (_CONTAINERS, _DOMAINS):
        (folder / name).write_bytes(hook_program())


_FOLDER = programs_directory("hooks", hook_program(), _write)


def _loaded(module: str, name: str) -> Any:
    """Import the hook's file of this name as a module."""
    loader = SourceFileLoader(module, str(_FOLDER / name))
    spec = importlib.util.spec_from_loader(module, loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[module] = made
    loader.exec_module(made)
    return made


oci = rootful = _loaded("vitrail_oci_hook", _CONTAINERS)
libvirt = _loaded("vitrail_libvirt_hook", _DOMAINS)
