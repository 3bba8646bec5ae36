"""``brokerctl adopt``: what it writes of a domain whose name and XML are anyone's."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from broker.cli.launchers.adoption.adopt import _proposed_name, _record, installer_disk
from broker.cli.launchers.adoption.domains import DefinedDomain, show_change
from broker.cli.sandboxes.new import checked_record
from broker.cli.sandboxes.presets import PRESETS
from tests.kit.brokerctl import home, paths_of

UUID = "11111111-2222-4333-8444-555555555555"
XML = "<domain><name>a</name><devices>{}<graphics passwd='s3cret'/></devices></domain>"


def domain(name):
    return DefinedDomain("qemu:///session", UUID, name, running=False, saved=False)


@pytest.mark.parametrize("purpose", PRESETS)
def test_each_purpose_makes_a_record_of_a_domain(purpose):
    record = checked_record(
        Path("/x/office.toml"), _record(domain("office"), "office", purpose, "sky")
    )
    assert record.viewer.label.colour == "#56b4e9"
    assert record.host.launch.peer.domain == UUID
    assert record.host.sandbox_class == "persistent"


def test_a_domains_name_is_a_comment_and_nothing_else():
    text = _record(
        domain("a\nclass = 'template'\n#\u202e"), "office", "untrusted", None
    )
    assert tomllib.loads(text)["class"] == "persistent"
    assert "\u202e" not in text


def test_a_domains_password_is_not_shown_beside_a_change(capsys):
    show_change(XML.format(""), XML.format("<vsock/>").replace("'", '"'))
    out = capsys.readouterr().out
    assert "vsock" in out
    assert "s3cret" not in out


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Office PC", "office-pc"),
        ("win11", "win11"),
        ("7 von 9", "vm-7-von-9"),
        ("äöü", "vm"),
        ("me", "me-2"),
        ("x" * 80, "x" * 28),
        ("a" * 27 + " b", "a" * 27),
    ],
)
def test_a_sandboxs_name_resembles_the_domains(given, name):
    with home() as env:
        assert _proposed_name(paths_of(env), given) == name


def test_the_installer_is_whole_sectors_of_a_shells_text():
    disk = installer_disk()
    assert len(disk) % 512 == 0
    assert b"\0" not in disk


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_the_disk_is_a_script_that_installs_the_agent(shell, tmp_path):
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"{shell} is not installed")
    disk, root = tmp_path / "disk", tmp_path / "root"
    disk.write_bytes(installer_disk())
    (root / "etc").mkdir(parents=True)
    (root / "etc/passwd").write_text("ada:x:1000:1000::/home/ada:/bin/sh\n")
    (root / "etc/group").write_text("ada:x:1000:\n")
    words = [*shell.split(), str(disk), "--root", str(root), "--no-packages"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    assert (root / "usr/local/bin/vitrail-guest").is_file()
