"""The hooks as they are installed: each one file, made of the modules of ``shims/hooks``."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from shims.bundle import hook_program
from tests.kit.shims import programs_directory

_PROGRAMS = {
    f"vitrail_{module}.py": hook_program(module)
    for module in ("oci_rootful", "oci_hook", "libvirt_hook")
}


def _write(folder: Path) -> None:
    for name, content in _PROGRAMS.items():
        (folder / name).write_bytes(content)


_FOLDER = programs_directory("hooks", b"".join(_PROGRAMS.values()), _write)


def _loaded(name: str) -> Any:
    """Import a hook's file under the name that it has where it is installed."""
    spec = importlib.util.spec_from_file_location(name, _FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made


rootful = _loaded("vitrail_oci_rootful")
oci = _loaded("vitrail_oci_hook")
libvirt = _loaded("vitrail_libvirt_hook")
