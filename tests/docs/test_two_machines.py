"""``two-machines.md`` and ``migration.md`` agree with each other and with the programs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from broker.cli.verbs import VERBS
from broker.core.paths import Paths, find_paths
from broker.core.services import LINK_PORT, PAIRING_PORT, PORTS
from broker.net.addresses import HybridEndpoint, VsockEndpoint
from broker.net.link.wire_types import Role
from broker.net.link_service.config import (
    HOST_CID,
    _File,
    declared_role,
    load_link_config,
)
from policy.tools.record_files import parse_record
from tests.kit.pages import DOCS, blocks, spans
from tests.test_docs_commands import calls, command_of

TWO, SOCAT = DOCS / "two-machines.md", DOCS / "migration.md"
BOTH = pytest.mark.parametrize("page", [TWO, SOCAT], ids=lambda page: page.stem)
UNITS = DOCS.parent / "broker/data/systemd"
UNIT = re.compile(r"vitrail-[\w@-]+\.(?:service|socket|timer)")
SOCATS_OWN = {7001, 7002}
"""Ports of the script that is replaced, which are its author's choice."""


def settings(page: Path):
    """The files that a page has people write: path in the settings' directory, text."""
    for block in blocks(page):
        if block.is_settings:
            path = block.path or "sandboxes.d/NAME.toml"
            yield path.removeprefix("~/.config/vitrail/"), block.text


def words_of(call: str) -> list[str]:
    """A call's words; its placeholders are words, too."""
    return shlex.split(call.strip().rstrip('"'))


def paths_of(config: Path) -> Paths:
    """The paths of a machine with this directory of settings."""
    return find_paths(
        {"XDG_CONFIG_HOME": str(config), "XDG_RUNTIME_DIR": "/run/nobody"}
    )


@BOTH
def test_each_brokerctl_line_is_parsed_to_its_last_word(page: Path) -> None:
    found = [words_of(call) for call, _ in calls(page.read_text())]
    assert len(found) >= 3
    for verb, *words in found:
        assert verb in VERBS
        command = command_of(verb)
        while isinstance(command, click.Group) and words:
            inner = command.get_command(click.Context(command), words[0])
            if inner is None:
                break
            command = inner
            del words[0]
        if words:  # else the text names a verb, and is no line to type
            with command.make_context(verb, words):
                pass


@BOTH
def test_records_and_link_settings_are_those_of_the_loaders(
    page: Path, tmp_path: Path
) -> None:
    found = list(settings(page))
    assert found
    for number, (path, text) in enumerate(found):
        if path == "link.toml":
            config = tmp_path / str(number) / "vitrail"
            config.mkdir(parents=True)
            (config / path).write_text(text)
            paths = paths_of(config.parent)
            role = declared_role(paths)
            assert role is not None
            place = load_link_config(paths, role).endpoint
            assert isinstance(place, VsockEndpoint | HybridEndpoint)
            assert place.port == LINK_PORT
        else:
            name = Path(path).stem
            assert path == f"sandboxes.d/{name}.toml"
            record, problems = parse_record("x", Path(path), text.encode())
            assert record is not None, problems


def test_the_defaults_that_the_page_names_are_the_defaults(tmp_path: Path) -> None:
    text = next(text for _, text in settings(TWO) if "listen" in text)
    (tmp_path / "vitrail").mkdir()
    paths = paths_of(tmp_path)
    without = load_link_config(paths, Role.VIEWER)
    (tmp_path / "vitrail/link.toml").write_text(text)
    assert load_link_config(paths, Role.VIEWER) == without


def test_the_table_of_link_toml_has_all_its_keys() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (?:viewer|host|both)", TWO.read_text(), re.MULTILINE
    )
    assert rows == [*_File.__struct_fields__]


@BOTH
def test_each_port_is_one_of_the_programs(page: Path) -> None:
    known = {*PORTS.values(), LINK_PORT, PAIRING_PORT, *SOCATS_OWN}
    text = page.read_text()
    found = {int(number) for number in re.findall(r"\b[67]\d{3}\b", text)}
    assert found
    assert found <= known


def test_the_table_of_ports_is_the_brokers() -> None:
    rows = re.findall(r"^\| (65[\d, ]+) \|", SOCAT.read_text(), re.MULTILINE)
    numbers = [int(number) for row in rows for number in row.split(", ")]
    assert sorted(numbers) == sorted(PORTS.values())


@BOTH
def test_units_and_programs_are_there(page: Path) -> None:
    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())
    programs = {name for name in project["tool"]["vitrail"]["programs"] if "-" in name}
    text = page.read_text()
    units = set(UNIT.findall(text))
    assert units <= {path.name for path in UNITS.rglob("vitrail-*")}
    # Those of the guest are files of 'shims'.
    guests = {"vitrail-open", "vitrail-copy", "vitrail-call"}
    named = {
        *re.findall(r"\$ +(vitrail-\w+)$", text, re.MULTILINE),
        *(span for span in spans(page) if re.fullmatch(r"vitrail-\w+", span)),
    }
    assert named
    assert named - guests <= programs


def test_the_links_unit_listens_where_the_default_does() -> None:
    unit = (UNITS / "user/vitrail-viewer-link.socket").read_text()
    assert f"ListenStream=vsock::{LINK_PORT}\n" in unit
    assert f"`vsock::{LINK_PORT}`" in TWO.read_text()


@pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd is not installed"
)
def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    """With the full path in ExecStart=, as the page has people write them."""
    for way in ("user", "system"):
        named = []
        place = tmp_path / way
        place.mkdir()
        for path in sorted((UNITS / way).iterdir()):
            program = re.compile(r"^ExecStart=(?=\w)", re.MULTILINE)
            text = program.sub("ExecStart=/bin/true ", path.read_text())
            (place / path.name).write_text(text)
            if path.name in TWO.read_text():
                named.append(str(place / path.name))
        if way == "user":  # the viewer's VM, of the page
            (unit,) = (b.text for b in blocks(SOCAT) if "[Service]" in b.text)
            (place / "viewer.service").write_text(unit)
            named.append(str(place / "viewer.service"))
        assert named
        done = subprocess.run(
            ["systemd-analyze", "verify", f"--{way}", "--man=no", *named],
            env={
                "SYSTEMD_UNIT_PATH": f"{place}:",
                "XDG_RUNTIME_DIR": str(tmp_path),
                "HOME": str(tmp_path),
                "PATH": "/usr/bin:/bin",
            },
            capture_output=True,
            text=True,
            check=False,
        )
        said = [line for line in done.stderr.splitlines() if str(place) in line]
        assert (done.returncode, said) == (0, []), done.stderr


def test_both_pages_use_one_cid_and_one_socket() -> None:
    """Of the viewer: an admin copies from either into one set-up."""
    text = TWO.read_text() + SOCAT.read_text()
    cids = re.findall(
        rf'(?:guest-cid[= ]|cid address="|(?:vsock|CONNECT):(?=\d+:(?:{LINK_PORT}|700\d)))(\d+)',
        text,
    )
    assert len(cids) >= 8
    assert set(cids) - {str(HOST_CID)} == {"42"}
    sockets = re.findall(r"hybrid:(/[^:`\"]+)", text)
    assert len(sockets) == 2
    assert len({*sockets, *re.findall(r"--uds-path ([^\s\"]+)", text)}) == 1


def test_both_pages_say_alike_what_a_viewers_record_has() -> None:
    """The host's record, with what the viewer does not read."""
    for page in (TWO, SOCAT):
        text = page.read_text()
        assert "the same on both" in text or "the same record" in text
        assert "same file without" not in text


def test_a_slow_machine_has_time_to_start_a_broker() -> None:
    """By the default, 90 s, an emulated viewer was killed and started without end."""
    brokers = [
        path
        for path in UNITS.rglob("vitrail-*.service")
        if "\nType=notify\n" in path.read_text()
    ]
    assert len(brokers) >= 4
    for path in brokers:
        assert "\nTimeoutStartSec=10min\n" in path.read_text(), path


def test_the_viewers_machine_survives_a_reboot() -> None:
    """Its vsock's program carries nothing after a reset (seen with 0.3)."""
    (script,) = (b.text for b in blocks(SOCAT) if "qemu-system" in b.text)
    assert " -no-reboot " in script
    # QEMU fails if the socket is not there yet.
    assert script.index("until [ -S ") < script.index("exec qemu-system")
    (unit,) = (b.text for b in blocks(SOCAT) if "[Service]" in b.text)
    assert "\nRestart=always\n" in unit
    assert script.splitlines()[0].removeprefix("# ~/") in unit


@pytest.mark.parametrize("brokerctl", ["exit 1", "echo false"])
def test_the_viewers_script_ends_without_its_vsock(
    brokerctl: str, tmp_path: Path
) -> None:
    """A user manager's PATH need not have brokerctl: the unit's state says so then."""
    (script,) = (b.text for b in blocks(SOCAT) if "qemu-system" in b.text)
    program = tmp_path / "brokerctl"
    program.write_text(f"#!/bin/sh\n{brokerctl}\n")
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", "-c", script.replace("/run/user/1000", str(tmp_path))],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1


def test_each_prompt_is_of_one_of_the_machines() -> None:
    typed = [one for block in blocks(TWO) for one in block.typed]
    assert {one.machine for one in typed} == {"viewer", "host"}
    # All else is a program of ours, which the other tests look at.
    others = {"systemctl", "python3", "ssh", "sudo"}
    ours = {"brokerctl", "vitrail-viewer", "vitrail-host"}
    assert {one.command.split()[0] for one in typed} == others | ours
