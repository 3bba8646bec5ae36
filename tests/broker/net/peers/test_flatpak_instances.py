"""Which application a process is of: the directories of instances are not believed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from contextlib import contextmanager

import pytest

from broker.net.peers import credentials
from broker.net.peers.flatpak_instances import app_of

INFO = "[Application]\nname={name}\n\n[Instance]\ninstance-id=1\nname=other\n"


@contextmanager
def boxed():
    """A process that is the first of a separate pid namespace; its namespaces."""
    read_end, write_end = os.pipe()
    try:
        child = subprocess.Popen(
            [
                *("bwrap", "--unshare-pid", "--ro-bind", "/", "/", "--proc", "/proc"),
                *("--json-status-fd", str(write_end), "sleep", "1000"),
            ],
            pass_fds=[write_end],
        )
    except FileNotFoundError:
        pytest.skip("bubblewrap is not installed")
    os.close(write_end)
    with os.fdopen(read_end) as status:
        leader = json.loads(status.readline())["child-pid"]
        pidfd = os.pidfd_open(leader)
        try:
            namespaces = credentials.pid_namespaces(pidfd)
            if not namespaces:
                pytest.skip("this kernel cannot tell a process's pid namespace")
            yield leader, namespaces
        finally:
            # The first process of the namespace: bubblewrap outside ends with it.
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
            child.wait()


def instance(runtime, name, leader, namespace, number="1"):
    folder = runtime / ".flatpak" / number
    folder.mkdir(parents=True)
    found = {"child-pid": leader, "pid-namespace": namespace, "mnt-namespace": 1}
    (folder / "bwrapinfo.json").write_text(json.dumps(found))
    (folder / "info").write_text(INFO.format(name=name))
    return folder


def test_a_process_of_a_living_instance(tmp_path):
    with boxed() as (leader, namespaces):
        instance(tmp_path, "org.example.Foot", leader, namespaces[0])
        assert app_of(tmp_path, namespaces) == "org.example.Foot"
        nested = (namespaces[0] + 1000003, *namespaces)
        assert app_of(tmp_path, nested) == "org.example.Foot"
        assert app_of(tmp_path, namespaces[1:]) is None
        assert app_of(tmp_path, ()) is None


def test_an_instance_that_has_ended_vouches_for_no_process(tmp_path):
    """Its directory stays, and the kernel gives a namespace's inode number again."""
    with boxed() as (dead, _):
        pass
    with boxed() as (_, namespaces):
        instance(tmp_path, "org.example.Foot", dead, namespaces[0])
        assert app_of(tmp_path, namespaces) is None


def test_a_pid_that_another_process_has_now_vouches_for_no_process(tmp_path):
    with boxed() as (_, namespaces), boxed() as (other, _):
        instance(tmp_path, "org.example.Foot", other, namespaces[0])
        assert app_of(tmp_path, namespaces) is None


def test_the_host_s_own_namespace_is_no_instance(tmp_path):
    """An instance of a directory that says so would be every process here."""
    ours = credentials.pid_namespaces_of_self()
    instance(tmp_path, "org.example.Foot", 1, ours[0])
    assert app_of(tmp_path, ours) is None


@pytest.mark.parametrize("char", "\v\f\x1c\x85\u2028")
def test_a_value_with_another_line_end_names_no_application(tmp_path, char):
    """Flatpak copies the permissions of a runtime, which its author wrote."""
    value = char.join(("a", "[Application]", "name=org.example.Foot"))
    with boxed() as (leader, namespaces):
        folder = instance(tmp_path, "org.example.Foot", leader, namespaces[0])
        text = f"[Runtime]\nname=org.evil.Sdk\n[Context]\nfilesystems={value}\n"
        (folder / "info").write_text(text)
        assert app_of(tmp_path, namespaces) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "bwrapinfo.json").unlink(),
        lambda f: (f / "bwrapinfo.json").write_text("{"),
        lambda f: (f / "bwrapinfo.json").write_text('{"child-pid": -1}'),
        lambda f: (f / "info").unlink(),
        lambda f: (f / "info").write_text("[Runtime]\nname=org.example.Foot\n"),
        lambda f: (f / "info").write_bytes(b"\xff"),
        lambda f: ((f / "info").unlink(), os.mkfifo(f / "info")),
    ],
)
def test_a_damaged_instance_vouches_for_no_process(tmp_path, damage):
    with boxed() as (leader, namespaces):
        damage(instance(tmp_path, "org.example.Foot", leader, namespaces[0]))
        assert app_of(tmp_path, namespaces) is None
        instance(tmp_path, "org.example.Good", leader, namespaces[0], "2")
        assert app_of(tmp_path, namespaces) == "org.example.Good"
