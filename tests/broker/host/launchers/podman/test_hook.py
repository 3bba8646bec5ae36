"""The OCI hook as a process: its reactions to its input and to each kind of broker."""

from __future__ import annotations

import base64
import errno
import json
import os
import resource
import shlex
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import tomllib
from argparse import Namespace
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from shims.hooks.oci_config import CLOSED
from tests.kit.hooks import oci

HOOK = Path(oci.__file__)
LAUNCH = "0123456789ab"
PREPARED = {"id": LAUNCH, "sandbox": "work", "directory": "/run/user/1/vitrail/s"}


def config(**annotations):
    return {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 1000, "gid": 100},
            "env": ["PATH=/bin", "DISPLAY=:0", "WAYLAND_DISPLAY=wayland-1"],
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "annotations": {"io.vitrail.sandbox": "work", **annotations},
    }


def state(**annotations):
    found = {"io.vitrail.sandbox": "work", "io.vitrail.launch": LAUNCH}
    return {"pid": 4711, "status": "creating", "annotations": {**found, **annotations}}


class Broker:
    """Answers each call with ``answer(request, connection)``; None: hangs up."""

    def __init__(self, path, answer):
        self.path, self.answer, self.calls = path, answer, []
        self.sock = socket.socket(socket.AF_UNIX)

    def __enter__(self):
        self.sock.bind(str(self.path))
        self.sock.listen()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.sock.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.sock.close()
        self.path.unlink()

    def serve(self):
        while True:
            try:
                conn, _ = self.sock.accept()
            except OSError:
                return
            with conn:
                data = b""
                while not data.endswith(b"\0"):
                    data += conn.recv(65536)
                request = json.loads(data[:-1])
                self.calls.append((request["method"], request["parameters"]))
                reply = self.answer(request, conn)
                if reply is not None:
                    conn.sendall(reply)


def reply(**parameters):
    return json.dumps({"parameters": parameters}).encode() + b"\0"


@pytest.fixture
def place(tmp_path):
    (tmp_path / "records").mkdir()
    return tmp_path


def typed(document) -> list[str]:
    """The words of a command line that gives all annotations of a document."""
    found = document.get("annotations") if isinstance(document, dict) else None
    pairs = found.items() if isinstance(found, dict) else ()
    # No argument has a NUL, and the hook is to refuse that one by its value.
    words = [f"{key}={value}".replace("\0", "") for key, value in pairs]
    return [word for pair in words for word in ("--annotation", pair)]


def hook(place, stage, text, seconds=10.0, podman=None, whose=None):
    """Run a stage; ``podman`` is its parent's command line: its annotations.

    ``whose`` says whose broker it is, in place of the one in ``place``.
    """
    podman = typed(text) if podman is None else podman
    if not isinstance(text, bytes | str):
        text = json.dumps(text)
    control, records = str(place / "control"), str(place / "records")
    whose = whose or ("--control", control, "--records", records)
    words = [sys.executable, str(HOOK), stage, *whose, "--seconds", str(seconds)]
    data = text if isinstance(text, bytes) else text.encode()
    # After it a command, so that the shell stays the parent.
    parent = ["/bin/sh", "-c", "eval $HOOK; exit $?", "podman", "run", *podman]
    return subprocess.run(
        parent,
        input=data,
        capture_output=True,
        timeout=60,
        check=False,
        env={"HOOK": shlex.join(words)},
    )


def required(place, text="[launch]\nrequired = true\n", name="work"):
    (place / "records" / f"{name}.toml").write_text(text)


# -- a lease -----------------------------------------------------------------------


def test_a_container_gets_its_sockets_and_no_other_display(place):
    with Broker(place / "control", lambda *_: reply(**PREPARED)) as broker:
        done = hook(place, "precreate", config(**{"io.vitrail.ours": "true"}))
    assert done.returncode == 0, done.stderr
    made = json.loads(done.stdout)
    assert broker.calls == [
        ("io.vitrail.Broker.LaunchPrepare", {"record": "work", "ours": True})
    ]
    (mount,) = [m for m in made["mounts"] if m["destination"] == "/run/vitrail"]
    assert mount["source"] == PREPARED["directory"]
    assert {"ro", "nosuid", "nodev", "bind"} <= set(mount["options"])
    (own,) = [m for m in made["mounts"] if m["destination"] == "/run/user/1000"]
    assert (own["type"], "uid=1000" in own["options"]) == ("tmpfs", True)
    assert made["process"]["env"] == [
        "PATH=/bin",
        "XDG_RUNTIME_DIR=/run/user/1000",
        "WAYLAND_DISPLAY=/run/vitrail/wayland-0",
        "PULSE_SERVER=unix:/run/vitrail/vitrail.Audio",
        "SSH_AUTH_SOCK=/run/vitrail/vitrail.SshAgent",
    ]
    assert made["annotations"]["io.vitrail.launch"] == LAUNCH


def filter_of(place, **annotations):
    """The filter that comes of one which permits four calls."""
    given = config(**annotations)
    names = ["read", "socket", "socketcall", "io_uring_setup"]
    given["linux"] = {
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO",
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
            "syscalls": [
                {"names": names, "action": "SCMP_ACT_ALLOW"},
                {"names": ["socket"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22},
            ],
        }
    }
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    return given["linux"]["seccomp"], json.loads(done.stdout)["linux"]["seccomp"]


def test_a_container_of_ours_opens_sockets_of_named_families_only(place):
    _, made = filter_of(place, **{"io.vitrail.ours": "true"})
    assert made["architectures"] == ["SCMP_ARCH_X86_64", "SCMP_ARCH_X32"]
    read, *families = made["syscalls"]
    families = [rule for rule in families if rule["names"] == ["socket"]]
    *families, refused = families
    assert read["names"] == ["read"]
    assert (refused["action"], refused["errnoRet"]) == ("SCMP_ACT_ERRNO", 22)
    assert {tuple(rule["names"]) for rule in families} == {("socket",)}
    conditions = [condition for rule in families for condition in rule["args"]]
    assert {one["op"] for one in conditions} == {"SCMP_CMP_EQ"}
    assert {one["value"] for one in conditions} == set(range(46)) - {40}


def test_a_container_of_ours_takes_huge_pages_by_no_rule_that_permits_more(place):
    given = config(**{"io.vitrail.ours": "true"})
    seccomp = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": ["mmap", "read", "io_setup"], "action": "SCMP_ACT_ALLOW"},
            {"names": ["keyctl", "add_key", "request_key"], "action": "SCMP_ACT_ALLOW"},
        ],
    }
    given["linux"] = {"seccomp": seccomp}
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    read, mmap = json.loads(done.stdout)["linux"]["seccomp"]["syscalls"][:2]
    assert (read["names"], mmap["names"]) == (["read"], ["mmap"])
    (without,) = mmap["args"]
    assert (without["value"], without["valueTwo"]) == (0x40000, 0)


def test_a_container_has_few_terminals(place):
    given = config()
    mount = {"destination": "/dev/pts", "type": "devpts", "options": ["mode=620"]}
    given["mounts"] = [*given.get("mounts", []), mount]
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    made = json.loads(done.stdout)["mounts"]
    (found,) = [one for one in made if one.get("type") == "devpts"]
    assert found["options"] == ["mode=620", "max=128"]


FLAGS = 0x7E020000


def closes_namespaces(rule):
    refused = {"clone", "unshare", *CLOSED}
    return rule["action"] == "SCMP_ACT_ERRNO" and set(rule["names"]) <= refused


def _masked(mask, value):
    op = "SCMP_CMP_MASKED_EQ"
    return {"index": 0, "value": mask, "valueTwo": value, "op": op}


@pytest.mark.parametrize(
    ("conditions", "permitted"),
    [
        ([], [[_masked(FLAGS, 0)]]),
        ([_masked(0x2000, 0)], [[_masked(FLAGS | 0x2000, 0)]]),
        ([_masked(0x10000000, 0x10000000)], []),
        ([{"index": 0, "value": 17, "op": "SCMP_CMP_EQ"}], []),
        (
            [{"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}],
            [[_masked(FLAGS, 0), {"index": 1, "value": 0, "op": "SCMP_CMP_EQ"}]],
        ),
    ],
)
def test_container_of_ours_clones_without_namespaces_only(place, conditions, permitted):
    """Promise: what a filter permits is narrowed, never widened."""
    document = config(**{"io.vitrail.ours": "true"})
    names = ["clone", "unshare", "clone3", "setns", "mount", "read"]
    allow = {"names": names, "action": "SCMP_ACT_ALLOW", "args": conditions}
    other = {"names": ["setns"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    document["linux"] = {
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow, other]}
    }
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", document)
    linux = json.loads(done.stdout)["linux"]
    rules = linux["seccomp"]["syscalls"]
    allowed = [rule for rule in rules if rule["action"] == "SCMP_ACT_ALLOW"]
    assert allowed[0]["names"] == ["read"]
    assert [rule["args"] for rule in allowed[1:]] == permitted
    assert {tuple(rule["names"]) for rule in allowed[1:]} <= {("clone", "unshare")}
    refused = {}
    for rule in rules:
        if rule["action"] == "SCMP_ACT_ERRNO" and "clone" not in rule["names"]:
            (name,) = rule["names"]
            assert refused.setdefault(name, rule["errnoRet"]) == rule["errnoRet"]
    assert refused == CLOSED
    flags = [r["args"][0]["value"] for r in rules if "clone" in r["names"]][-7:]
    assert sum(flags) == FLAGS
    assert linux["readonlyPaths"] == ["/proc"]


def test_container_whose_record_has_namespaces_keeps_its_calls(place):
    document = config(**{"io.vitrail.ours": "true"})
    allow = {"names": ["clone", "unshare", "mount"], "action": "SCMP_ACT_ALLOW"}
    document["linux"] = {
        "seccomp": {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [allow]}
    }
    answer = {**PREPARED, "close_namespaces": False}
    with Broker(place / "control", lambda *_: reply(**answer)):
        done = hook(place, "precreate", document)
    linux = json.loads(done.stdout)["linux"]
    assert linux["seccomp"]["syscalls"] == [allow]
    assert "readonlyPaths" not in linux


def test_file_systems_in_memory_of_container_of_ours_have_sizes(place):
    document = config(**{"io.vitrail.ours": "true"})
    paths = ("/tmp", "/home/user", "/run", "/sized")
    document["mounts"] = [
        {"destination": path, "type": "tmpfs", "options": ["mode=0700"]}
        for path in paths
    ]
    document["mounts"][-1]["options"] = ["size=64k"]
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", document)
    mounts = {
        mount["destination"]: mount for mount in json.loads(done.stdout)["mounts"]
    }
    sizes = [mounts[path]["options"][-1] for path in paths]
    assert sizes == ["size=12%", "size=25%", "size=3%", "size=64k"]


def test_a_container_of_a_persons_command_keeps_its_filter(place):
    given, made = filter_of(place)
    assert made == given


def test_a_container_of_ours_without_a_filter_has_no_vsock_either(place):
    given = config(**{"io.vitrail.ours": "true"})
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    made = json.loads(done.stdout)["linux"]["seccomp"]
    assert made["defaultAction"] == "SCMP_ACT_ALLOW"
    vsock, others, *huge = [r for r in made["syscalls"] if not closes_namespaces(r)]
    assert [rule["names"] for rule in huge] == [
        ["mmap"],
        ["mmap2"],
        ["memfd_create"],
        ["shmget"],
        ["io_setup"],
        ["keyctl"],
        ["add_key"],
        ["request_key"],
    ]
    answers = (errno.ENOMEM, errno.ENOMEM, errno.EINVAL, errno.ENOMEM, errno.ENOSYS)
    found = tuple(rule["errnoRet"] for rule in huge)
    assert found == (*answers, errno.EPERM, errno.EPERM, errno.EPERM)
    condition = {"index": 0, "value": 0xFFFFFFFF, "valueTwo": 40}
    assert vsock["args"] == [dict(condition, op="SCMP_CMP_MASKED_EQ")]
    assert others["names"] == ["io_uring_setup", "socketcall"]
    assert {vsock["action"], others["action"]} == {"SCMP_ACT_ERRNO"}


OWN_FILES = resource.getrlimit(resource.RLIMIT_NOFILE)[1]


@pytest.mark.parametrize(
    ("answer", "given", "most"),
    [
        ({}, None, 700),
        ({"open_files": 300}, None, 300),
        ({"open_files": 300}, 200, 200),
        ({"open_files": 300}, 9999, 300),
        ({"open_files": 300}, (1 << 64) - 1, 300),
        # Podman's runtime may be unable to give more than we have.
        ({"open_files": 1 << 40}, None, OWN_FILES),
        *(({"open_files": number}, None, 700) for number in (0, -1, True, "9", None)),
    ],
)
def test_its_programs_have_few_open_files(place, answer, given, most):
    """Attack: descriptors in flight, which the kernel counts for the whole person."""
    document = config()
    core = {"type": "RLIMIT_CORE", "hard": 0, "soft": 0}
    document["process"]["rlimits"] = [core]
    if given is not None:
        number = {"type": "RLIMIT_NOFILE", "hard": given, "soft": given}
        document["process"]["rlimits"].append(number)
    with Broker(place / "control", lambda *_: reply(**PREPARED, **answer)):
        done = hook(place, "precreate", document)
    assert json.loads(done.stdout)["process"]["rlimits"] == [
        core,
        {"type": "RLIMIT_NOFILE", "hard": most, "soft": most},
    ]


@pytest.mark.parametrize("limits", [7, [7], [{"type": "RLIMIT_NOFILE"}], [{}]])
def test_a_configuration_with_malformed_limits_of_open_files_has_no_lease(
    place, limits
):
    given = config()
    given["process"]["rlimits"] = limits
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    assert (done.returncode, json.loads(done.stdout)) == (0, given)


def test_the_first_process_is_bound(place):
    with Broker(place / "control", lambda *_: reply()) as broker:
        done = hook(place, "createRuntime", state())
    assert (done.returncode, done.stdout) == (0, b"")
    assert broker.calls == [
        ("io.vitrail.Broker.LaunchBind", {"id": LAUNCH, "leader": 4711})
    ]


def test_a_broker_that_is_restarted_between_the_stages_is_waited_for(place):
    broker = Broker(place / "control", lambda *_: reply())
    late = threading.Timer(0.5, broker.__enter__)
    late.start()
    try:
        done = hook(place, "createRuntime", state(), seconds=30)
    finally:
        late.join()
        broker.__exit__()
    assert done.returncode == 0, done.stderr
    assert len(broker.calls) == 1


def test_hooks_at_the_same_time_have_a_lease_each(place):
    numbers = [f"{number:012x}" for number in range(8)]
    waiting = list(numbers)

    def answer(*_):
        return reply(**{**PREPARED, "id": waiting.pop()})

    with Broker(place / "control", answer), ThreadPoolExecutor() as pool:
        done = list(pool.map(lambda _: hook(place, "precreate", config(), 60), numbers))
    assert [one.returncode for one in done] == [0] * len(numbers)
    found = [json.loads(one.stdout)["annotations"] for one in done]
    assert sorted(one["io.vitrail.launch"] for one in found) == numbers


# -- no lease ------------------------------------------------------------------------


def _killer(request, conn):
    pid = struct.unpack(
        "3i", conn.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
    )
    os.kill(pid[0], signal.SIGKILL)


def _silent(request, conn):
    conn.recv(1)  # until the hook gives up


BAD = {
    "refuses": lambda *_: (
        b'{"error": "x.Refused", "parameters": {"message": "\x1b[2J"}}\0'
    ),
    "hangs up": lambda *_: None,
    "says nothing": _silent,
    "is no JSON": lambda *_: b"\xff\0",
    "is a list": lambda *_: b"[]\0",
    "has no launch": lambda *_: reply(id=1),
    "never ends": lambda _, conn: _flood(conn),
    "kills": _killer,
}


CASES = [(kind, "precreate") for kind in BAD]
CASES += [(kind, "createRuntime") for kind in BAD if kind != "has no launch"]


def _flood(conn):
    try:
        while True:
            conn.sendall(b"x" * 65536)
    except OSError:
        return


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_whatever_the_broker_does_the_container_starts(place, kind, stage):
    given = json.dumps(config() if stage == "precreate" else state())
    began = time.monotonic()
    with Broker(place / "control", BAD[kind]):
        done = hook(place, stage, given, seconds=2)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (given.encode() if stage == "precreate" else b"")
    assert b"\x1b" not in done.stderr
    assert time.monotonic() - began < 40


@pytest.mark.parametrize(("kind", "stage"), CASES)
def test_one_whose_record_requires_it_does_not(place, kind, stage):
    required(place)
    with Broker(place / "control", BAD[kind]):
        done = hook(place, stage, config() if stage == "precreate" else state(), 2)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"requires a lease" in done.stderr


@pytest.mark.parametrize("stage", ["precreate", "createRuntime"])
def test_without_a_broker(place, stage):
    given = config() if stage == "precreate" else state()
    assert hook(place, stage, given, 0.5).returncode == 0
    required(place)
    assert hook(place, stage, given, 0.5).returncode == 1


@pytest.mark.parametrize(
    ("records", "code"),
    [
        ({}, 0),
        ({"work": "[launch]\nrequired = false\n"}, 0),
        ({"work": 'inherits = "base"\n', "base": "[launch]\nrequired = true\n"}, 1),
        ({"work": 'inherits = "work"\n'}, 0),
        ({"work": 'inherits = "../x"\n'}, 0),
        ({"work": "[launch\nrequired = true\n"}, 1),
        ({"work": "[launch\n"}, 0),
        ({"work": 'launch = "x"\n'}, 0),
        ({"work": '[launch]\nrequired = "yes"\n'}, 0),
    ],
)
def test_what_the_record_says(place, records, code):
    for name, text in records.items():
        required(place, text, name)
    assert hook(place, "precreate", config()).returncode == code


def test_an_annotation_may_require_it(place):
    given = config(**{"io.vitrail.required": "true"})
    assert hook(place, "precreate", given).returncode == 1


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"[]", b"\xff\xfe", b'"x"', b"[" * 100_000, b'{"annotations": 7}'],
    ids=range(7),
)
def test_input_that_is_no_configuration_is_passed_on(place, text):
    done = hook(place, "precreate", text)
    assert (done.returncode, done.stdout) == (0, text)
    assert hook(place, "createRuntime", text).returncode == 0


@pytest.mark.parametrize(
    "name", ["", "../x", "a/b", "a" * 32, "-x", "A", "a\nb", "\x1b[0m"]
)
def test_hostile_names_reach_no_broker(place, name):
    given = config(**{"io.vitrail.sandbox": name})
    with Broker(place / "control", lambda *_: reply(**PREPARED)) as broker:
        done = hook(place, "precreate", given)
    assert (done.returncode, json.loads(done.stdout)) == (0, given)
    assert broker.calls == []
    assert b"\x1b" not in done.stderr


def test_a_launch_of_someone_elses_is_taken_out(place):
    """Else a container could be bound as a launch that another one prepared."""
    given = config(**{"io.vitrail.launch": LAUNCH})
    done = hook(place, "precreate", given)
    assert done.returncode == 0
    assert json.loads(done.stdout) == config()


@pytest.mark.parametrize("pid", [None, True, "1", 0, 1, -5, 4.5])
def test_a_state_without_a_process_binds_nothing(place, pid):
    with Broker(place / "control", lambda *_: reply()) as broker:
        done = hook(place, "createRuntime", {**state(), "pid": pid})
    assert done.returncode == 0
    assert broker.calls == []


@pytest.mark.parametrize("process", [None, {}, {"user": {"uid": "x", "gid": 1}}])
def test_a_configuration_without_a_process_is_passed_on(place, process):
    given = {**config(), "process": process}
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", given)
    assert (done.returncode, json.loads(done.stdout)) == (0, given)


ALL = "         0          0 4294967295\n"
SOME = "         0        999          1\n         1    1000000      65536\n"


def test_a_person_s_own_hook_leases_no_container_of_root_s():
    """A rootless hook is root, too, in its user namespace; and a person is not root."""
    assert [oci.is_roots(*who) for who in ((0, ALL), (0, SOME), (1000, ALL))] == [
        *(True, False, False)
    ]
    words = Namespace(seconds=5, control="/none", records=[], settings=None)
    refused = oci.Hook(words, of_root=True)
    with pytest.raises(oci.HookError, match="sudo brokerctl launcher install podman"):
        refused.serve("precreate", json.dumps(config()))
    assert oci.Hook(words, of_root=False).refused == ""


def test_root_s_hook_is_silent_where_rootless_podman_calls_it(place):
    given = json.dumps(config(**{"io.vitrail.required": "true"}))
    for stage, out in (("precreate", given.encode()), ("createRuntime", b"")):
        words = [sys.executable, str(HOOK), stage, "--settings", str(place / "none")]
        done = subprocess.run(
            words, input=given.encode(), capture_output=True, timeout=60, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, out, b"")


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_a_record_must_be_a_regular_file(place, kind):
    """Attack: a pipe in a record's place, which would hold the container up."""
    path = place / "records" / "work.toml"
    if kind == "fifo":
        os.mkfifo(path)
        keep = os.open(path, os.O_RDWR)
        os.write(keep, b"[launch]\nrequired = true\n")
    else:
        path.mkdir()
    assert hook(place, "precreate", config(), 2).returncode == 0
    if kind == "fifo":
        os.close(keep)


# -- whose annotations they are ------------------------------------------------------

LAYER, IMAGE = "1" * 64, "2" * 64
OF_THE_IMAGE = '{"annotations": {"io.vitrail.sandbox": "work"}}'


def stored(place, manifest, *, driver="overlay", name="manifest"):
    """Podman's storage with a container; returns its configuration."""
    graph = place / "storage"
    root = {
        "overlay": graph / "overlay" / LAYER / "merged",
        "vfs": graph / "vfs" / "dir" / LAYER,
    }[driver]
    containers, images = (
        graph / f"{driver}-{kind}" for kind in ("containers", "images")
    )
    (images / IMAGE).mkdir(parents=True)
    containers.mkdir()
    entry = {"id": "3" * 64, "layer": LAYER, "image": IMAGE}
    (containers / "containers.json").write_text(json.dumps([entry]))
    (images / IMAGE / name).write_text(manifest)
    return {**config(), "root": {"path": str(root)}}


def is_leased(place, document, podman=()):
    with Broker(place / "control", lambda *_: reply(**PREPARED)) as broker:
        done = hook(place, "precreate", document, podman=list(podman))
    assert done.returncode == 0, done.stderr
    leased = "io.vitrail.launch" in json.loads(done.stdout)["annotations"]
    assert bool(broker.calls) is leased
    return leased


@pytest.mark.parametrize(
    "podman",
    [
        ["--annotation", "io.vitrail.sandbox=work", "IMAGE"],
        ["--annotation=io.vitrail.sandbox=work", "IMAGE"],
    ],
)
def test_an_annotation_on_the_command_line_is_the_persons(place, podman):
    assert is_leased(place, config(), podman)


@pytest.mark.parametrize("driver", ["overlay", "vfs"])
@pytest.mark.parametrize(
    ("manifest", "leased"),
    [
        ('{"annotations": {"org.opencontainers.image.title": "x"}}', True),
        ("{}", True),
        (OF_THE_IMAGE, False),
        # As Podman's own reader of JSON takes it.
        ('{"Annotations": {"io.vitrail.sandbox": "work"}}', False),
        ('{"annotations": {"io\\u002evitrail.sandbox": "work"}}', False),
        ('{"annotations": {"io.vitrail.sandbox": "work"}, "annotations": {}}', False),
        # It adds to what the person has given.
        ('{"annotations": {"io.vitrail.ours": "true"}}', False),
        ("no JSON", False),
        ("[" * 100_000, False),
    ],
)
def test_an_annotation_of_the_image_leases_nothing(place, driver, manifest, leased):
    # 'podman start': the annotations were given to 'podman create', or by the image.
    document = stored(place, manifest, driver=driver)
    assert is_leased(place, document, ["start", "work"]) is leased


POD = {"io.kubernetes.cri-o.SandboxID": "4" * 64}


@pytest.mark.parametrize(
    ("podman", "annotations", "by_file"),
    [
        (["kube", "play", "pod.yaml"], {}, True),
        (["play", "kube", "pod.yaml"], {}, True),
        (["start", "pod-work"], POD, True),
        (["system", "service"], {}, True),
        (["start", "work"], {}, None),
        (["--annotation", "io.vitrail.sandbox=work", "--pod=mine"], POD, None),
    ],
)
def test_annotation_of_a_file_is_reported(tmp_path, podman, annotations, by_file):
    """A file for pods is a stranger's, as an image is; the record decides."""
    document = stored(tmp_path, "{}")
    document["annotations"].update(annotations)
    with Broker(tmp_path / "control", lambda *_: reply(**PREPARED)) as broker:
        hook(tmp_path, "precreate", document, podman=podman)
    ((_, parameters),) = broker.calls
    assert parameters.get("by_file") is by_file


def test_the_command_line_must_have_each_of_them(place):
    document = stored(place, '{"annotations": {"io.vitrail.ours": "true"}}')
    document["annotations"]["io.vitrail.ours"] = "true"
    assert not is_leased(place, document, ["--annotation", "io.vitrail.sandbox=work"])


def test_a_manifest_by_its_digest_is_read_too(place):
    name = "=" + base64.b64encode(b"manifest-sha256:" + b"0" * 64).decode()
    document = stored(place, OF_THE_IMAGE, name=name)
    assert not is_leased(place, document, ["start", "work"])


@pytest.mark.parametrize("root", [None, {}, {"path": 3}, {"path": "/srv/root"}])
def test_an_image_that_is_not_found_is_not_believed(place, root):
    assert not is_leased(place, {**config(), "root": root}, ["start", "work"])


CRUNS = "run.oci.seccomp_bpf_data"
SYSTEMDS = "org.systemd.property.Wants"


@pytest.mark.parametrize(
    ("manifest", "podman", "left"),
    [
        # Of the image.
        ({CRUNS: "BgAAAAAA/38=", SYSTEMDS: "['x']"}, [], set()),
        # By another case of a letter, which Podman reads as well.
        ({"Annotations": {CRUNS: ""}, SYSTEMDS: ""}, [], set()),
        # The user's own value, in place of the image's.
        ({CRUNS: "other"}, ["--annotation", f"{CRUNS}=1"], {CRUNS, SYSTEMDS}),
        # Podman's, for an option: the image has none of them.
        ({"org.opencontainers.image.title": "x"}, [], {CRUNS, SYSTEMDS}),
        # The image cannot be found.
        (None, [], set()),
        (None, [f"--annotation={SYSTEMDS}=1"], {SYSTEMDS}),
    ],
)
def test_a_runtime_obeys_no_annotation_of_the_image(place, manifest, podman, left):
    named = {} if manifest is None else {"annotations": manifest}
    document = stored(place, json.dumps(named))
    document["annotations"] |= {CRUNS: "1", SYSTEMDS: "1"}
    document["annotations"] |= {"io.container.manager": "libpod"}
    if manifest is None:
        del document["root"]
    given = ["--annotation", "io.vitrail.sandbox=work", *podman]
    with Broker(place / "control", lambda *_: reply(**PREPARED)):
        done = hook(place, "precreate", document, podman=given)
    made = json.loads(done.stdout)["annotations"]
    assert {"io.vitrail.launch", "io.container.manager"} <= set(made)
    assert set(made) & {CRUNS, SYSTEMDS} == left
    removed = {CRUNS, SYSTEMDS} - left
    assert all(name.encode() in done.stderr for name in removed)


def test_a_broker_of_another_user_is_not_asked(place, monkeypatch):
    """Its socket is the person's, and the process that listens is not."""
    monkeypatch.setattr(
        oci, "connect_to_user", lambda sock, path, _uid: sock.connect(path)
    )

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place / "control"))
        listener.listen()
        path, end = str(place / "control"), time.monotonic() + 10
        broker = oci.Broker(path, os.getuid() + 1, end)
        with pytest.raises(oci.HookError, match="another user"):
            broker.call("LaunchPrepare", {"record": "work"}, patient=False)
        conn, _ = listener.accept()
        with conn:
            assert conn.recv(1) == b"", "not a byte"


def test_a_record_that_is_nested_too_deeply_is_read_by_its_words(place):
    deep = "[launch]\nrequired = true\nx = " + "[" * 100_000
    required(place, deep)
    done = hook(place, "precreate", config())
    assert (done.returncode, b"requires a lease" in done.stderr) == (1, True)
    assert b"Traceback" not in done.stderr


SQUARE = ".".join(["a"] * 30_000) + " = 1\n"
"""A key of which a parser of TOML takes some gigabytes."""


@pytest.mark.parametrize("more", [SQUARE, "a = 1\n" * 20_000], ids=["line", "file"])
def test_a_record_that_the_broker_refuses_for_its_size_is_not_parsed(
    place, monkeypatch, more
):
    def parsed(text):
        raise AssertionError(f"{len(text)} characters are parsed")

    monkeypatch.setattr(tomllib, "loads", parsed)
    required(place, "[launch]\nrequired = true\n" + more)
    annotations = {"io.vitrail.sandbox": "work"}
    assert oci.is_required(annotations, [str(place / "records")])


def test_lines_without_a_word_do_not_take_the_square_of_their_number():
    began = time.process_time()
    assert oci.parse_record("a = = b" + "\n" * 65_000) == (None, "", "")
    assert time.process_time() - began < 2


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


def fails():
    raise MemoryError


def limited():
    return resource.getrlimit(resource.RLIMIT_AS)[0] == oci.CHILD_BYTES


@pytest.mark.parametrize(
    ("work", "expected"),
    [(dies, True), (fails, True), (limited, True), (bool, False)],
)
def test_a_record_on_which_the_reading_process_dies_is_required(
    place, monkeypatch, work, expected
):
    """And that process has a bounded memory."""
    monkeypatch.setattr(oci, "is_required", lambda *_: work())
    options = Namespace(
        seconds=10.0, control=str(place / "control"), settings=None, records=[]
    )
    instance = oci.Hook(options, of_root=False)
    text = json.dumps(config())
    output, answer = oci.lease(instance, "precreate", text, config()["annotations"])
    assert (output, answer) == (None, expected)


def test_a_runtime_of_root_s_obeys_no_annotation_of_the_image_either(
    place, monkeypatch
):
    monkeypatch.setattr(oci, "require_confined", lambda _config: None)
    monkeypatch.setattr(oci, "mount_sockets", lambda _person, _launch, there: there)
    instance = SimpleNamespace(
        person="ada",
        command_line=["--annotation", "io.vitrail.sandbox=work"],
        broker=lambda: SimpleNamespace(call=lambda *_, **__: PREPARED),
    )
    document = stored(place, json.dumps({"annotations": {CRUNS: "", SYSTEMDS: ""}}))
    document["annotations"] |= {CRUNS: "1", SYSTEMDS: "1", "org.example.mine": "1"}
    text = oci.precreate(instance, document, oci.annotations_of(document))
    remaining = set(json.loads(text)["annotations"])
    assert remaining == {"io.vitrail.sandbox", "io.vitrail.launch", "org.example.mine"}
