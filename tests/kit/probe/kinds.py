"""Run the probe in a sandbox of each kind, started as a person starts one."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.integration.test_call_services import offer, sandboxes
from tests.kit import own_command
from tests.kit.own_command import Way
from tests.kit.probe.program import CALLS, KEY
from tests.kit.world import world

PROGRAM = Path(__file__).with_name("program.py")
_SECONDS = 240
_USER_KEYRING, _UNLINK = -4, 9
"""KEY_SPEC_USER_KEYRING and KEYCTL_UNLINK (keyctl(2)); it follows add_key(2)."""
Answers = dict[str, Any]


class _Flatpak(own_command.Flatpak):
    program = "python3"


_WAYS: dict[str, type[Way]] = {
    "box": own_command.RecordedBox,
    "nested": own_command.RecordedBox,
    "podman": own_command.RecordedPodman,
    "nspawn": own_command.Nspawn,
    "own": own_command.Podman,
    "flatpak": _Flatpak,
    "toolbox": own_command.Toolbox,
    "distrobox": own_command.Distrobox,
}
NESTED = {
    "nested": own_command.RecordedBox,
    "nested podman": own_command.RecordedPodman,
    "nested nspawn": own_command.Nspawn,
}
"""Kinds whose record has ``launch.user_namespaces``."""
_HOME_IN_MEMORY = ("box", "podman", "nspawn", *NESTED)


async def ask(kind: str) -> Answers:
    """Run the probe in a sandbox of a kind; return its answers."""
    with _key_of_user():
        return await _ask(kind)


@contextmanager
def _key_of_user() -> Iterator[None]:
    """Give the user a key, whose name sandboxes should not see."""
    libc = ctypes.CDLL(None, use_errno=True)
    # Its own name, because another test at the same time removes its key.
    name = f"{KEY}-{os.getpid()}".encode()
    key = libc.syscall(CALLS["add_key"], b"user", name, b"-", 1, _USER_KEYRING)
    if key < 0:
        pytest.skip(f"no key can be added: {os.strerror(ctypes.get_errno())}")
    try:
        assert KEY in Path("/proc/keys").read_text(), "the probe would see it outside"
        yield
    finally:
        libc.syscall(CALLS["add_key"] + 2, _UNLINK, key, _USER_KEYRING)


async def _ask(kind: str) -> Answers:
    if kind == "service":
        return await _ask_service()
    way_type = {**_WAYS, **NESTED}[kind]
    async with (
        way_type.settings() as settings,
        world(image=False, extra=settings) as w,
    ):
        folder = w.base / "open"
        folder.mkdir()
        program = folder / "probe.py"
        program.write_bytes(PROGRAM.read_bytes())
        launcher, output = way_type(w, folder), folder / "output"
        async with launcher.prepared():
            if kind in _HOME_IN_MEMORY:
                record = w.paths.config[0] / "sandboxes.d/work.toml"
                text = record.read_text().replace('"persistent"', '"disposable"')
                nested = "user_namespaces = true\n" if kind in NESTED else ""
                record.write_text(text + nested)
            async with launcher.running(output, "python3", str(program)):
                with trio.fail_after(_SECONDS):
                    await trio.to_thread.run_sync(launcher.child.wait)
        return _answers(output.read_text(errors="replace"))


async def _ask_service() -> Answers:
    async with sandboxes() as (w, work, _):
        folder = w.base / "open"
        folder.mkdir()
        program = folder / "probe.py"
        program.write_bytes(PROGRAM.read_bytes())
        command = f"command = ['python3', '-I', '{program}']\nread = ['{folder}']\n"
        offer(w, "probe", command)
        code, text = await work.script("vitrail-call -t @adminvm probe </dev/null 2>&1")
        assert code == 0, text
        return _answers(text)


def _answers(text: str) -> Answers:
    """Return the JSON of the probe's line."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    assert len(lines) == 1, text
    answers: Answers = json.loads(lines[0])
    return answers
