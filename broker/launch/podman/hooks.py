"""The hook's files for Podman: the program, and a JSON for each stage (oci-hooks(5))."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from broker.core.replace_file import replace_file

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
    replace_file(program, source.read_bytes(), mode=0o755)
    written = [program]
    for stage in _STAGES:
        text = stage_json(program, stage, control, records)
        name = folder / f"vitrail-{stage.lower()}.json"
        replace_file(name, text.encode(), mode=0o644)
        written.append(name)
    return written


def hook_files(folder: Path) -> list[Path]:
    """The stages' files of a directory of hooks, whether they are there or not."""
    return [folder / f"vitrail-{stage.lower()}.json" for stage in _STAGES]
