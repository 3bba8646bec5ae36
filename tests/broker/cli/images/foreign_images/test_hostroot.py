"""This machine's /usr as a guest's root: the parts that are taken and left out."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from broker.cli.images.foreign_images.furnish import furnish
from broker.cli.images.foreign_images.hostroot import host_tree, package_state
from broker.cli.images.foreign_images.layers import write_tree
from broker.core.errors import SetupError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine in a directory."""
    for name in ("usr/bin", "usr/share/doc/foot", "etc/ssh", "etc/ssl/certs",
                 "var/lib/dpkg", "home/me", "usr/local/bin"):  # fmt: skip
        (tmp_path / name).mkdir(parents=True)
    for name in ("usr/bin/python3", "usr/bin/waypipe", "usr/bin/foot"):
        (tmp_path / name).write_text(f"#!/bin/sh\n# {name}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "usr/bin/sudo").write_text("x")
    (tmp_path / "usr/bin/sudo").chmod(0o4755)
    (tmp_path / "usr/bin/private").write_text("secret")
    (tmp_path / "usr/bin/private").chmod(0)
    (tmp_path / "usr/share/doc/foot/README").write_text("long")
    (tmp_path / "etc/shadow").write_text("root:hash")
    (tmp_path / "etc/passwd").write_text("me:x:1000:1000:My Name:/home/me:/bin/sh\n")
    (tmp_path / "etc/ssh/ssh_host_ed25519_key").write_text("secret")
    (tmp_path / "etc/hostname").write_text("mine")
    (tmp_path / "etc/ssl/certs/ca.pem").write_text("public")
    (tmp_path / "home/me/letter").write_text("secret")
    (tmp_path / "var/lib/dpkg/status").write_text("")
    for name in ("bin", "lib"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    return tmp_path


def names(root: Path) -> set[str]:
    return {name for name, _ in host_tree(root).entries()}


def test_programs_come_along_and_nothing_of_the_person(root: Path):
    found = names(root)
    assert {"usr/bin/foot", "bin", "etc/ssl/certs/ca.pem"} <= found
    secret = ("shadow", "ssh/", "hostname", "home", "var", "usr/share/doc")
    assert not [n for n in found if any(s in n for s in secret)]
    tree = host_tree(root)
    furnish(tree, b"")
    out = io.BytesIO()
    write_tree(tree, out)
    assert b"My Name" not in out.getvalue()
    assert b"secret" not in out.getvalue() or os.geteuid() == 0
    with tarfile.open(fileobj=io.BytesIO(out.getvalue())) as archive:
        assert {(i.uid, i.gid) for i in archive if "home/user" not in i.name} == {
            (0, 0)
        }


def test_no_program_has_a_set_user_id_bit(root: Path):
    assert host_tree(root).find("usr/bin/sudo").mode == 0o755


def test_a_usr_that_is_not_merged_is_refused(root: Path):
    (root / "bin").unlink()
    (root / "bin").mkdir()
    with pytest.raises(SetupError, match="not a link into /usr"):
        host_tree(root)


def test_the_state_changes_with_the_packages(root: Path):
    before = package_state(root)
    assert package_state(root) == before
    (root / "var/lib/dpkg/status").write_text("Package: gedit\n")
    assert package_state(root) != before
