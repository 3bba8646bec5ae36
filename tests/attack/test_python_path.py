"""A directory that a sandbox writes is the working directory, and PYTHONPATH names it.

``export PYTHONPATH=$PYTHONPATH:/opt/lib`` leaves an empty entry, which is the working
directory: a module there would run with the user's rights, without any rule.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from broker.cli.launchers import shared_box
from broker.helpers.process.spawn import PIPE, STDOUT, spawn
from shims.bundle import hook_program, write_programs
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

ROOT = Path(__file__).parents[2]
BIN = Path(sys.prefix) / "bin"
PROGRAMS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["vitrail"]
MODULES = ("sitecustomize", "usercustomize", "json", "socket", "trio", "broker")
"""Python imports the first two by itself."""
FOREIGN = {
    "broker/cli/images/foreign_images/importing.py",
    "broker/core/distribution.py",
}
"""They name packages: in a command for a Containerfile, and in a table."""


@pytest.fixture
def trap(tmp_path):
    """Make the directory; yield it and the environment of a process in it."""
    for name in MODULES:
        text = f"open({str(tmp_path / 'ran')!r}, 'a').write(__name__)\n"
        (tmp_path / f"{name}.py").write_text(text)
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": ":/opt/lib"}
    return tmp_path, env


def run(argv, trap, stdin=b""):
    folder, env = trap
    return subprocess.run(
        argv,
        cwd=folder,
        env=env,
        input=stdin,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_trap_catches_a_python_without_isolation(trap):
    """Otherwise no test here could fail."""
    run([sys.executable, "-c", "import json"], trap)
    assert "sitecustomize" in (trap[0] / "ran").read_text()


@pytest.mark.parametrize("name", PROGRAMS["programs"])
def test_program_imports_nothing_of_the_working_directory(name, trap):
    done = run([BIN / name, "--help"], trap)
    assert not (trap[0] / "ran").exists(), done
    if name != "vitrail-manager":  # for which the machine may lack GTK
        assert b"sage: " in done.stdout, done


@pytest.mark.parametrize("name", ["vitrail_oci_hook.py", "vitrail"])
def test_hook_imports_nothing_of_the_working_directory(name, trap, tmp_path):
    program = tmp_path / name
    program.write_bytes(hook_program())
    program.chmod(0o755)
    config = json.dumps({"ociVersion": "1.0.2"}).encode()
    done = run([program, "precreate"], trap, config)
    assert not (tmp_path / "ran").exists(), done
    assert b"Traceback" not in done.stderr


def test_opener_of_shared_boxes_imports_nothing_of_the_working_directory(
    trap, monkeypatch, tmp_path
):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = run([shared_box.write_opener(), "--help"], trap)
    assert not (tmp_path / "ran").exists(), done
    assert b"vitrail: cannot connect" in done.stderr, done


def test_guest_programs_start_isolated(tmp_path):
    for path in write_programs(tmp_path):
        first, *lines = path.read_text().splitlines()
        assert first == (
            "#!/bin/sh" if path.suffix == ".sh" else "#!/usr/bin/python3 -I"
        )
        assert not [line for line in lines if re.search(r"exec python3 (?!-I)", line)]


def sources():
    """Yield the product's files that may start a Python."""
    for top in ("broker", "policy", "shims", ".ci/packaging/tree.py"):
        path = ROOT / top
        for file in [path] if path.is_file() else path.rglob("*"):
            if file.suffix in {".py", ".sh", ".service", ".desktop", ""}:
                yield from [file] if file.is_file() else []


def test_no_line_starts_a_python_without_isolation():
    """Command lines of programs, scripts, units and hooks."""
    start = re.compile(
        r"(?:#!\S*(?:/env -S )?\S*|exec |env |chroot \S+ |Exec=|switch_root /root )"
        r"(?:/\S*/)?python3? (?!-I)"
        r"|(?:sys\.executable|\"/usr/bin/python3?\"), (?!\"-I\"|\*flags)"
        r"|#!.*python3?$",
        re.MULTILINE,
    )
    hits = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sources()
        if str(file.relative_to(ROOT)) not in FOREIGN
        for line in file.read_text(errors="replace").splitlines()
        if start.search(line)
    ]
    # In a build: pip makes the environment, and programs that it brings are removed.
    assert hits == []


def pythons(processes):
    """Return the command lines of the Pythons among a world's processes."""
    return [line for line in processes.values() if "/python3" in line.split()[0]]


@PID_NAMESPACES
async def test_all_processes_of_a_box_and_its_broker_are_isolated(trap):
    """Started as a user starts them, in the directory, by the installed program."""
    folder, env = trap
    async with world(start=False, image=False) as w:
        environ = {k: v for k, v in w.environ.items() if not k.startswith("PYTHON")}
        environ["PYTHONPATH"] = env["PYTHONPATH"]
        command = [BIN / "brokerctl", "run", "--bwrap", "--", "foot", "-T", "boxed"]
        child = spawn(command, env=environ, cwd=folder, stdout=PIPE, stderr=STDOUT)
        try:
            await wait_window(w.comp, title="boxed", deadline=200)
            lines = pythons(w.processes())
            assert len(lines) >= 10, lines
            assert [line for line in lines if line.split()[1] != "-I"] == []
            assert not (folder / "ran").exists()
        finally:
            child.kill()
            await child.wait()
            print(child.popen.stdout.read().decode())
            child.popen.stdout.close()
            await w.shutdown()
    assert not (folder / "ran").exists()
