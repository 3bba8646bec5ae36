"""The hook's files for Podman: the program, and a JSON for each stage (oci-hooks(5)).

Only brokerctl runs this: it writes in the user's directories or, as root, below ``/etc``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from broker.core.files.replace_file import replace_file
from shims.bundle import hook_program

ROOTFUL_HOOKS = Path("/etc/containers/oci/hooks.d")
"""Where root's Podman 4 looks for hooks without being told."""
ROOTFUL = Path("/etc/vitrail")
"""The program of root's hook, and its settings."""
SETTINGS = "podman-hook.json"
_OLD_MODULE = "vitrail_oci_rootful.py"
"""Earlier versions of the hook loaded it; this one has its code."""
PROGRAM = "vitrail_oci_hook.py"
_STAGES = ("precreate", "createRuntime")
_TIMEOUT_SECONDS = 20
"""Podman's own, over the hook's deadline: its end is the runtime's, not ours."""


def stage_json(
    program: Path, stage: str, control: Path, records: Sequence[Path]
) -> str:
    """Return the JSON file by which Podman runs the hook at a stage.

    Hooks get no environment of the user's, so every path is in it.
    """
    words = ["--control", str(control)]
    for directory in records:
        words += ["--records", str(directory)]
    return _json(program, stage, words)


def _json(program: Path, stage: str, words: Sequence[str]) -> str:
    """Return the JSON file of one stage's hook."""
    hook = {
        "path": str(program),
        "args": [PROGRAM, stage, *words],
        "timeout": _TIMEOUT_SECONDS,
    }
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
    """Write the hook's program and the JSON of its stages; return the files.

    ``folder`` gets a JSON for each stage, ``program`` the hook itself. Raises OSError.
    """
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    program.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    replace_file(program, hook_program(), mode=0o755)
    written = [program]
    for stage in _STAGES:
        text = stage_json(program, stage, control, records)
        name = folder / f"vitrail-{stage.lower()}.json"
        replace_file(name, text.encode(), mode=0o644)
        written.append(name)
    return written


def write_rootful(
    uid: int,
    runtime: Path,
    records: Sequence[Path],
    *,
    folder: Path = ROOTFUL_HOOKS,
    place: Path = ROOTFUL,
) -> list[Path]:
    """Write root's hook, for the broker of user ``uid``; returns the files.

    ``runtime`` is the user's XDG_RUNTIME_DIR, ``records`` has the directories of their
    records.  Raises OSError.
    """
    for directory in (folder, place):
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    values = {
        "uid": uid,
        "runtime": str(runtime),
        "records": [str(directory) for directory in records],
    }
    settings, program = place / SETTINGS, place / PROGRAM
    replace_file(program, hook_program(), mode=0o755)
    replace_file(settings, (json.dumps(values) + "\n").encode(), mode=0o644)
    stages = hook_files(folder)
    for stage, path in zip(_STAGES, stages, strict=True):
        text = _json(program, stage, ["--settings", str(settings)])
        replace_file(path, text.encode(), mode=0o644)
    (place / _OLD_MODULE).unlink(missing_ok=True)
    return [program, settings, *stages]


def rootful_files(folder: Path = ROOTFUL_HOOKS, place: Path = ROOTFUL) -> list[Path]:
    """The files of root's hook, whether they are there or not."""
    return [*hook_files(folder), *(place / n for n in (PROGRAM, _OLD_MODULE, SETTINGS))]


def hook_files(folder: Path) -> list[Path]:
    """The stages' files of a directory of hooks, whether they are there or not."""
    return [folder / f"vitrail-{stage.lower()}.json" for stage in _STAGES]
