"""Root's OCI hook as a process: its reactions to its input and to each kind of broker.

The same as tests/broker/host/launchers/podman/test_hook.py for a container of root's: the hook
runs as root, the broker as a person.
"""

from __future__ import annotations

import json
import os
import pwd
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.broker.host.launchers.podman.test_hook import (
    BAD,
    CASES,
    LAUNCH,
    Broker,
    config,
    hook,
    reply,
    state,
)
from tests.kit.hooks import rootful
from tests.kit.wayland.compositor import short_directory

pytestmark = [
    pytest.mark.machine,
    pytest.mark.root,
]
UID = pwd.getpwnam("nobody").pw_uid
MANY = 8


class PersonsBroker(Broker):
    """The kernel says that the person listens (SO_PEERCRED, at listen(2))."""

    def __enter__(self):
        os.seteuid(UID)
        try:
            return super().__enter__()
        finally:
            os.seteuid(0)


class Place:
    """A person's runtime directory and records, and root's settings."""

    def __init__(self, base):
        self.base = base
        self.records = base / "records"
        self.runtime = base / "run"
        for path in (base / "run/vitrail", self.records):
            path.mkdir(parents=True)
        self.answer = self.prepared(LAUNCH)
        for path in (self.runtime, *self.runtime.rglob("*"), self.records):
            os.chown(path, UID, UID)
        values = {
            "uid": UID,
            "runtime": str(self.runtime),
            "records": [str(self.records)],
        }
        self.settings = base / "settings.json"
        self.settings.write_text(json.dumps(values))

    def prepared(self, launch):
        """The directory of a launch, and the broker's answer."""
        sockets = self.runtime / "vitrail/launch" / launch / "s"
        sockets.mkdir(parents=True)
        for path in (sockets, *sockets.parents[:2]):
            os.chown(path, UID, UID)
        (sockets / launch).touch()
        return {"id": launch, "sandbox": "work", "directory": str(sockets)}

    def broker(self, answer):
        return PersonsBroker(self.runtime / "vitrail/control", answer)

    def hook(self, stage, text, seconds=10.0):
        whose = ("--settings", str(self.settings))
        return hook(self.base, stage, text, seconds, whose=whose)

    def required(self):
        (self.records / "work.toml").write_text("[launch]\nrequired = true\n")


@pytest.fixture(scope="module", autouse=True)
def _mounts():
    """Whether this root may mount, as that of a container may not."""
    done = subprocess.run(["unshare", "--mount", "true"], check=False)
    if done.returncode != 0:
        pytest.skip("this root cannot mount")


@pytest.fixture
def place():
    with short_directory() as base:
        base.chmod(0o755)
        yield Place(base)
        for name in os.listdir(rootful.PLACES) if os.path.isdir(rootful.PLACES) else ():
            if name.startswith(LAUNCH[:8]):
                rootful.unmount_sockets(name)


def confined(**annotations):
    kinds = [{"type": kind} for kind in ("pid", "mount", "network")]
    linux = {
        "namespaces": kinds,
        "resources": {"devices": [{"allow": False, "access": "rwm"}]},
        "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        "maskedPaths": ["/proc/kcore"],
    }
    return {**config(**annotations), "linux": linux}


@pytest.fixture(scope="module", autouse=True)
def _apart(_mounts):
    """A process in separate namespaces, as the kernel tells of a first process."""
    argv = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "cat"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe) as outer:
        outer.stdin.write(b"up\n")  # what comes back was read inside
        outer.stdin.flush()
        assert outer.stdout.readline() == b"up\n"
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        FIRST["pid"] = int(children.read_text())
        yield
        outer.stdin.close()


FIRST: dict[str, int] = {}


def created():
    return {**state(), **FIRST}


def given(stage):
    return confined() if stage == "precreate" else created()


def mounted():
    return {name for name in os.listdir(rootful.PLACES) if name.startswith(LAUNCH[:8])}


def answering(place):
    return lambda *_: reply(**place.answer)


def test_its_sockets_are_mounted_by_root_until_its_first_process_is_bound(place):
    with place.broker(answering(place)) as broker:
        done = place.hook("precreate", confined())
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        (mount,) = [m for m in made["mounts"] if m["destination"] == "/run/vitrail"]
        assert mount["source"] == f"{rootful.PLACES}/{LAUNCH}"
        assert os.listdir(mount["source"]) == [LAUNCH]
        (number,) = made["process"]["rlimits"]
        assert number == {"type": "RLIMIT_NOFILE", "hard": 700, "soft": 700}
        done = place.hook("createRuntime", created())
    assert done.returncode == 0, done.stderr
    assert [method.rpartition(".")[2] for method, _ in broker.calls] == [
        "LaunchPrepare",
        "LaunchBind",
    ]
    assert mounted() == set()


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_whatever_the_broker_does_the_container_starts(place, kind, stage):
    text = json.dumps(given(stage))
    with place.broker(BAD[kind]):
        done = place.hook(stage, text, 2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (text.encode() if stage == "precreate" else b"")
    assert mounted() == set()


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_one_whose_record_requires_it_does_not(place, kind, stage):
    place.required()
    with place.broker(BAD[kind]):
        done = place.hook(stage, given(stage), 2)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"requires a lease" in done.stderr


@pytest.mark.parametrize("stage", ["precreate", "createRuntime"])
def test_without_a_broker(place, stage):
    assert place.hook(stage, given(stage), 0.5).returncode == 0
    place.required()
    assert place.hook(stage, given(stage), 0.5).returncode == 1


@pytest.mark.parametrize(
    "text", [b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000], ids=range(5)
)
def test_input_that_is_no_configuration_is_passed_on(place, text):
    done = place.hook("precreate", text)
    assert (done.returncode, done.stdout) == (0, text)
    assert place.hook("createRuntime", text).returncode == 0


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a" * 32, "-x", "A", "a\nb"])
def test_hostile_names_reach_no_broker(place, name):
    document = confined(**{"io.vitrail.sandbox": name})
    with place.broker(answering(place)) as broker:
        done = place.hook("precreate", document)
    assert (done.returncode, json.loads(done.stdout)) == (0, document)
    assert broker.calls == []


def test_a_broker_that_is_restarted_between_the_stages_is_waited_for(place):
    with place.broker(answering(place)):
        assert place.hook("precreate", confined()).returncode == 0
    broker = place.broker(answering(place))
    late = threading.Timer(0.5, broker.__enter__)
    late.start()
    try:
        done = place.hook("createRuntime", created(), 30)
    finally:
        late.join()
        broker.__exit__()
    assert done.returncode == 0, done.stderr
    assert len(broker.calls) == 1
    assert mounted() == set()


def test_hooks_at_the_same_time_have_a_place_each(place):
    launches = [f"{LAUNCH[:8]}{number:04}" for number in range(MANY)]
    answers = [place.prepared(launch) for launch in launches]
    waiting = list(answers)
    with place.broker(lambda *_: reply(**waiting.pop())), ThreadPoolExecutor() as pool:
        done = list(
            pool.map(lambda _: place.hook("precreate", confined(), 60), launches)
        )
    found = set()
    for one in done:
        assert one.returncode == 0, one.stderr
        made = json.loads(one.stdout)
        (mount,) = [m for m in made["mounts"] if m["destination"] == "/run/vitrail"]
        assert os.listdir(mount["source"]) == [made["annotations"]["io.vitrail.launch"]]
        found.add(mount["source"])
    assert found == {f"{rootful.PLACES}/{launch}" for launch in launches}
    bound = [state(**{"io.vitrail.launch": launch}) for launch in launches]
    with place.broker(lambda *_: reply()), ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda one: place.hook("createRuntime", one, 60), bound))
    assert [one.returncode for one in done] == [0] * MANY
    assert mounted() == set()


def test_the_place_of_a_hook_that_was_killed_is_removed_by_a_later_one(
    place, monkeypatch
):
    """Killed between its stages, or before the second one."""
    person = rootful.Person(UID, str(place.runtime), [])
    sockets = str(place.runtime / "vitrail/launch" / LAUNCH / "s")
    rootful.mount_sockets(person, LAUNCH, sockets)
    other = place.prepared(f"{LAUNCH[:8]}9999")
    rootful.mount_sockets(person, other["id"], other["directory"])
    assert mounted() == {LAUNCH, other["id"]}, "it is young, and may be in use"
    rootful.unmount_sockets(other["id"])
    monkeypatch.setattr(rootful, "OLD_SECONDS", -1.0)
    rootful.mount_sockets(person, other["id"], other["directory"])
    assert mounted() == {other["id"]}
    found = subprocess.run(["findmnt", "-n", "-l"], capture_output=True, check=True)
    assert f"{rootful.PLACES}/{LAUNCH} ".encode() not in found.stdout
    assert Path(sockets).is_dir(), "mounts are not removed"
