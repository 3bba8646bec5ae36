"""The hook's files for Podman: the program, and a JSON for each stage (oci-hooks(5))."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

PROGRAM = "vitrail_oci_hook.py"
_STAGES = ("precreate", "createRuntime")
_TIMEOUT_SECONDS = 20
"""Podman's own, over the hook's deadline: its end is the runtime's, not ours."""


def stage_json(
    program: Path, stage: str, control: Path, records: Sequence[Path]
) -> str:
    """Return a stage's file.

    Hooks get no environment of the person's, so every path stands in it.
    """
    words = [PROGRAM, stage, "--control", str(control)]
    for directory in records:
        words += ["--records", str(directory)]
    hook = {"path": str(program), "args": words, "timeout": _TIMEOUT_SECONDS}
    document = {
        "version": "1.0.0",
        "hook": hook,
        "when": {"annotations": {r"^io\.vitrail\.sandbox$": ".*"}},
        "stages": [stage],
    }
    return json.dumps(document, indent=2) + "\n"


def write_hooks(
    folder: Path, program: Path, control: Path, records: Sequence[Path]
) -> list[Path]:
    """Write the hook's files; returns them.  Raises OSError.

    ``folder`` gets a JSON for each stage, ``program`` the hook itself.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    program.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    source = resources.files("shims") / PROGRAM
    written = [_replace(program, source.read_bytes(), 0o755)]
    for stage in _STAGES:
        text = stage_json(program, stage, control, records)
        name = folder / f"vitrail-{stage.lower()}.json"
        written.append(_replace(name, text.encode(), 0o644))
    return written


def hook_files(folder: Path) -> list[Path]:
    """The stages' files of a directory of hooks, whether they are there or not."""
    return [folder / f"vitrail-{stage.lower()}.json" for stage in _STAGES]


def _replace(path: Path, data: bytes, mode: int) -> Path:
    """Write a file so that a container that starts meanwhile sees a whole one."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with os.fdopen(os.open(fresh, flags, mode), "wb") as file:
        file.write(data)
    fresh.replace(path)
    return path
