"""The part of the OCI hook that acts for root: its settings, confinement and mount."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker.cli.launchers import podman_setup as root_command
from broker.cli.launchers.podman_setup import install_rootful
from broker.core.errors import SetupError
from broker.host.launchers.podman.containers_conf import name_hooks
from broker.host.launchers.podman.hooks import (
    ROOTFUL_HOOKS,
    rootful_files,
    write_rootful,
)
from tests.kit.hooks import oci, rootful

LAUNCH = "0123456789ab"


class RootsFiles:
    """The module os, for which each open file is root's."""

    def __getattr__(self, name):
        return getattr(os, name)

    def fstat(self, fd):
        found = os.fstat(fd)
        return SimpleNamespace(st_uid=0, st_mode=found.st_mode)


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Writes settings, which are root's as far as this process sees."""
    path = tmp_path / "hook.json"
    monkeypatch.setattr(rootful, "os", RootsFiles())

    def write(text, mode=0o644):
        path.write_text(text)
        path.chmod(mode)
        return str(path)

    return write


GOOD = {"uid": 1000, "runtime": "/run/user/1000", "records": ["/etc/a", "/etc/b"]}


def test_whose_broker_it_is_stands_in_root_s_settings(settings):
    person = rootful.take_person(settings(json.dumps(GOOD)))
    assert (person.uid, person.records) == (1000, ["/etc/a", "/etc/b"])
    assert person.control == "/run/user/1000/vitrail/control"


@pytest.mark.parametrize(
    "change",
    [
        *({"uid": 0}, {"uid": -1}, {"uid": True}, {"uid": "1000"}, {"uid": None}),
        *({"runtime": "run"}, {"runtime": 1}, {"records": "/etc"}, {"records": ["a"]}),
    ],
)
def test_settings_with_a_mistake_are_no_person_s(settings, change):
    with pytest.raises(rootful.HookError):
        rootful.take_person(settings(json.dumps({**GOOD, **change})))


LOADING = """
import runpy, sys
print(runpy.run_path(sys.argv[1])["PLACES"])
"""


def test_installed_hook_has_the_code_for_root(tmp_path):
    """Podman starts it by its path, with an isolated Python."""
    etc = tmp_path / "etc"
    write_rootful(1000, tmp_path, [tmp_path], folder=tmp_path / "hooks", place=etc)
    argv = [sys.executable, "-I", "-c", LOADING, etc / "vitrail_oci_hook.py"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert done.stdout == f"{rootful.PLACES}\n"


@pytest.mark.parametrize("text", ["", "[]", "{", "7", "[" * 100_000, "{}"])
def test_settings_that_are_none(settings, text):
    with pytest.raises(rootful.HookError):
        rootful.take_person(settings(text))


def test_settings_that_others_can_write_are_refused(settings, tmp_path, monkeypatch):
    for mode in (0o664, 0o646):
        with pytest.raises(rootful.HookError, match="users other than root"):
            rootful.take_person(settings(json.dumps(GOOD), mode))
    monkeypatch.undo()
    with pytest.raises(rootful.HookError, match="users other than root"):
        rootful.take_person(str(tmp_path / "hook.json"))


def config(*namespaces, bounding=(), effective=()):
    kinds = [{"type": kind} for kind in namespaces]
    capabilities = {"bounding": list(bounding), "effective": list(effective)}
    return {"linux": {"namespaces": kinds}, "process": {"capabilities": capabilities}}


@pytest.mark.parametrize("kinds", [("pid",), ("mount",), (), ("mount", "user")])
def test_a_container_in_the_host_s_namespaces_is_refused(kinds):
    """Attack: --pid=host; its root could end each process of the person's."""
    with pytest.raises(rootful.HookError, match="shares the host's"):
        rootful.require_confined(config(*kinds))


@pytest.mark.parametrize(
    "document", [[], {}, {"linux": 7}, {"linux": {"namespaces": [7]}, "process": {}}]
)
def test_a_malformed_configuration_is_refused(document):
    with pytest.raises(rootful.HookError, match="invalid container configuration"):
        rootful.require_confined(document)


@pytest.fixture
def person(tmp_path):
    (tmp_path / "run/vitrail/launch" / LAUNCH / "s").mkdir(parents=True)
    return rootful.Person(os.getuid(), str(tmp_path / "run"), [])


def sockets(person, launch=LAUNCH):
    return f"{person.runtime}/vitrail/launch/{launch}/s"


def test_the_directory_of_a_launch_is_opened(person):
    fd = rootful.open_sockets(person, LAUNCH, sockets(person))
    try:
        assert os.path.samestat(os.fstat(fd), os.stat(sockets(person)))
    finally:
        os.close(fd)


@pytest.mark.parametrize("place", ["/root", "/", "{}/..", "{}x", ""])
def test_another_directory_is_never_opened(person, place):
    """Attack: a broker that names root's files, for a container to read."""
    with pytest.raises(rootful.HookError, match="invalid launch directory"):
        rootful.open_sockets(person, LAUNCH, place.format(sockets(person)))


@pytest.mark.parametrize(
    "below",
    [
        "",
        "/vitrail",
        "/vitrail/launch",
        f"/vitrail/launch/{LAUNCH}",
        f"/vitrail/launch/{LAUNCH}/s",
    ],
)
def test_a_link_on_the_way_is_not_followed(person, below):
    """Attack: the person replaces their directory by a link to root's."""
    path = Path(person.runtime + below)
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")
    with pytest.raises(rootful.HookError):
        rootful.open_sockets(person, LAUNCH, sockets(person))


def test_a_directory_of_another_user_s_is_refused(person):
    other = rootful.Person(person.uid + 1, person.runtime, [])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(rootful.HookError, match="another user owns it"):
        rootful.open_sockets(other, LAUNCH, sockets(person))
    assert len(os.listdir("/proc/self/fd")) == before


def test_root_reads_records_with_the_rights_of_the_person(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, name=name: taken.append(name))
    monkeypatch.setattr(oci, "limit_memory", lambda: None)
    hook = object.__new__(oci.Hook)
    hook.person = rootful.Person(pwd.getpwnam("nobody").pw_uid, "/none", [])
    hook.records = []
    assert hook.required({}) == "no"
    assert taken == ["setgroups", "setgid", "setuid"]


def test_what_install_writes_is_what_the_hook_reads(tmp_path, settings):
    folders = (tmp_path / "hooks", tmp_path / "etc")
    records = [
        Path("/home/x/.config/vitrail/sandboxes.d"),
        Path("/etc/vitrail/sandboxes.d"),
    ]
    old = folders[1] / "vitrail_oci_rootful.py"
    old.parent.mkdir()
    old.touch()
    written = write_rootful(
        1000, Path("/run/user/1000"), records, folder=folders[0], place=folders[1]
    )
    assert set(written) < set(rootful_files(*folders))
    assert not old.exists()
    assert old in rootful_files(*folders), "removed with the rest"
    assert all(stat.S_IMODE(path.stat().st_mode) in {0o644, 0o755} for path in written)
    person = rootful.take_person(str(folders[1] / "podman-hook.json"))
    assert (person.uid, person.runtime) == (1000, "/run/user/1000")
    assert person.records == [str(path) for path in records]
    for path in folders[0].iterdir():
        hook = json.loads(path.read_text())["hook"]
        assert os.access(hook["path"], os.X_OK)
        assert hook["args"][2:] == ["--settings", str(folders[1] / "podman-hook.json")]


def test_root_without_a_person_installs_nothing(monkeypatch):
    monkeypatch.delenv("SUDO_UID", raising=False)
    with pytest.raises(SetupError, match="must belong to another user than root"):
        install_rootful(None, as_json=False)
    with pytest.raises(SetupError, match="no user has the ID"):
        install_rootful(4_000_000_000, as_json=False)


@pytest.mark.parametrize("other", [None, "containers.conf", "containers.conf.d/9.conf"])
def test_root_s_podman_is_told_where_its_hooks_are(
    tmp_path, monkeypatch, capsys, other
):
    """Attack: Podman 5 reads no hook in /etc by itself, and starts what requires it."""
    monkeypatch.delenv("CONTAINERS_CONF", raising=False)
    hooks, conf = tmp_path / "oci/hooks.d", tmp_path / "containers.conf.d/50.conf"
    if other is not None:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("[engine]\nhooks_dir = []\n")
    monkeypatch.setattr(root_command, "ROOTFUL_CONF", conf)
    monkeypatch.setattr(root_command, "ROOTFUL_HOOKS", hooks)
    monkeypatch.setattr(root_command, "write_rootful", lambda *_: [])
    install_rootful(pwd.getpwnam("nobody").pw_uid, as_json=True)
    said = json.loads(capsys.readouterr().out)
    if other is None:
        assert said == {"written": [str(conf)], "add_to": None}
        found = tomllib.loads(conf.read_text())["engine"]["hooks_dir"]
        standard = ["/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"]
        assert found == [*standard, str(hooks)]
    else:
        assert said == {"written": [], "add_to": str(tmp_path / other)}
        assert not conf.exists()


def test_no_directory_is_named_twice(tmp_path, monkeypatch):
    monkeypatch.delenv("CONTAINERS_CONF", raising=False)
    conf = tmp_path / "containers.conf.d" / "50.conf"
    assert name_hooks(ROOTFUL_HOOKS, conf) is None
    found = tomllib.loads(conf.read_text())["engine"]["hooks_dir"]
    assert found.count(str(ROOTFUL_HOOKS)) == 1
