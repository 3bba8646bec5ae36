"""libvirt's hook: its reading of hostile XML, and its behaviour when all fails."""

from __future__ import annotations

import json
import os
import pwd
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import tomllib
from pathlib import Path

import pytest

from broker.host.launchers.libvirt.hook import install_hook
from tests.kit.hooks import libvirt as hook
from tests.kit.wayland.compositor import short_directory

UUID = "5d0c3e3a-52a4-4a4c-8f2e-6a1c7e1d0b11"
QEMU = "xmlns:q='http://libvirt.org/schemas/domain/qemu/1.0'"
SANDBOX = "<v:sandbox xmlns:v='https://vitrail.io/libvirt/1' name='{}' required='{}'/>"


def xml(metadata="", devices="", arguments=""):
    return (
        f"<domain type='qemu' id='1' {QEMU}><name>work</name><uuid>{UUID}</uuid>"
        f"<metadata>{metadata}</metadata><devices>{devices}</devices>"
        f"<q:commandline>{arguments}</q:commandline></domain>"
    ).encode()


def argument(value):
    return f"<q:arg value='{value}'/>"


SOCKET = argument("socket,id=vs,path=/run/user/1/v.sock") + argument(
    "vhost-user-vsock-pci,chardev=vs,bus=pcie.0"
)


def test_the_facts_of_a_domain_are_read():
    found = hook.read_domain(
        xml(
            SANDBOX.format("work", "yes"),
            "<vsock model='virtio'><cid auto='yes' address='42'/></vsock>",
            SOCKET,
        )
    )
    assert (found.uuid, found.cid, found.record) == (UUID, 42, "work")
    assert found.required
    assert found.vhost_user == "/run/user/1/v.sock"


def test_a_cid_that_is_not_chosen_yet_is_none():
    found = hook.read_domain(xml(devices="<vsock><cid auto='yes'/></vsock>"))
    assert found.cid is None
    assert not found.required


ENTITIES = b"".join(
    b"<!ENTITY %c '%s'>" % (98 + n, b"&%c;" % (97 + n) * 10) for n in range(9)
)


@pytest.mark.parametrize(
    "document",
    [
        b"<!DOCTYPE d [<!ENTITY a 'x'>]><domain/>",
        b"<!DOCTYPE d SYSTEM 'file:///etc/passwd'><domain/>",
        b"<!DOCTYPE l [<!ENTITY a 'aaaaaaaaaa'>" + ENTITIES + b"]><domain>&j;</domain>",
        b"<domain>" + b"<a>" * 200,
        b"<domain>&nothing;</domain>",
        b"",
        b"\xff\xfe\x00",
        b"<domain><uuid>x</uuid>",
    ],
    ids=["entity", "external", "laughs", "deep", "undefined", "empty", "bytes", "cut"],
)
def test_hostile_xml_is_refused(document):
    with pytest.raises(hook.HookError):
        hook.read_domain(document)


def test_ten_megabytes_of_metadata_are_passed_over():
    blob = "<x:y xmlns:x='u'>" + "<x:z>word</x:z>" * 700_000 + "</x:y>"
    found = hook.read_domain(xml(blob + SANDBOX.format("work", "no")))
    assert found.record == "work"


@pytest.mark.parametrize(
    "metadata",
    [
        "<uuid>11111111-1111-1111-1111-111111111111</uuid>",
        "<domain><uuid>x</uuid></domain>",
        "<devices><vsock><cid address='7'/></vsock></devices>",
        f"<d {QEMU}><q:commandline>{SOCKET}</q:commandline></d>",
        "<x>" + SANDBOX.format("other", "yes") + "</x>",
        "<sandbox name='other' required='yes'/>",
    ],
)
def test_metadata_passes_for_nothing_else(metadata):
    found = hook.read_domain(xml(metadata))
    assert (found.uuid, found.cid, found.vhost_user) == (UUID, None, None)
    assert (found.record, found.required) == (None, False)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../../etc/x", "a\0b"])
def test_no_name_leads_to_another_file(name):
    with pytest.raises(hook.HookError):
        hook.pid_of(name)


# -- as libvirt runs it ---------------------------------------------------------------


@pytest.fixture
def runtime():
    with short_directory() as directory:
        (directory / "vitrail").mkdir()
        (directory / "libvirt/qemu/run").mkdir(parents=True)
        (directory / "libvirt/qemu/run/work.pid").write_text("4711")
        yield directory


def run(runtime, *words, document=None):
    return subprocess.run(
        [sys.executable, "-I", Path(hook.__file__), *words],
        input=xml() if document is None else document,
        env={"PATH": os.defpath, "XDG_RUNTIME_DIR": str(runtime)},
        capture_output=True,
        check=False,
        timeout=60,
    )


class Broker(threading.Thread):
    """Answers one call with ``answer``, or hangs up where that is None."""

    def __init__(self, runtime, answer):
        super().__init__(daemon=True)
        self.answer = answer
        self.calls = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(runtime / "vitrail/control"))
        self.listener.listen()
        self.start()

    def run(self):
        conn, _ = self.listener.accept()
        with self.listener, conn:
            data = b""
            while not data.endswith(b"\0"):
                data += conn.recv(65536)
            self.calls.append(json.loads(data[:-1]))
            if self.answer is not None:
                conn.sendall(self.answer)


OK = b'{"parameters":{"sandbox":"work"}}\0'
STEPS = [
    (("prepare", "begin", "-"), "prepare", None),
    (("started", "begin", "-"), "started", 4711),
    (("reconnect", "begin", "-"), "started", 4711),
    (("release", "end", "-"), "release", None),
]


@pytest.mark.parametrize(("words", "event", "leader"), STEPS)
def test_each_step_is_reported_once_with_its_facts(runtime, words, event, leader):
    broker = Broker(runtime, OK)
    done = run(runtime, "work", *words, document=xml(arguments=SOCKET))
    assert (done.returncode, done.stderr) == (0, b"")
    broker.join(30)
    (call,) = broker.calls
    assert call["method"] == "io.vitrail.Broker.MachineEvent"
    assert call["parameters"] == {
        "launcher": "libvirt",
        "event": event,
        "name": "work",
        "uuid": UUID,
        "record": None,
        "cid": None,
        "vhost_user": "/run/user/1/v.sock",
        "leader": leader,
    }


def container(controller):
    return (
        f"<domain type='lxc' id='{controller}'><name>work</name><uuid>{UUID}</uuid>"
        "<devices><emulator>/usr/lib/libvirt/libvirt_lxc</emulator></devices></domain>"
    ).encode()


@pytest.fixture
def controller():
    """A process with one child, as libvirt's controller of a container."""
    script = "import subprocess, sys; c = subprocess.Popen(['sleep', '600']); "
    script += "print(c.pid, flush=True); sys.stdin.read(); c.kill(); c.wait()"
    words = [sys.executable, "-c", script]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(words, **pipes) as process:
        yield process.pid, int(process.stdout.readline())
        process.stdin.close()


@pytest.mark.parametrize("words", [("prepare", "begin"), ("started", "begin")])
def test_a_container_is_reported_with_its_first_process(runtime, controller, words):
    outer, first = controller
    broker = Broker(runtime, OK)
    done = run(runtime, "work", *words, "-", document=container(outer))
    assert (done.returncode, done.stderr) == (0, b"")
    broker.join(30)
    (call,) = broker.calls
    parameters = call["parameters"]
    assert parameters["launcher"] == "libvirt-lxc"
    assert parameters["leader"] == (first if words[0] == "started" else None)
    assert (parameters["cid"], parameters["vhost_user"]) == (None, None)


@pytest.mark.parametrize("controller", ["0", "-1", "x", "1/../self", "99999999", ""])
def test_a_controller_that_is_none_has_no_container(runtime, controller):
    done = run(runtime, "work", "started", "begin", "-", document=container(controller))
    assert done.returncode == 0
    assert b"cannot lease domain work" in done.stderr


def test_a_controller_with_other_children_is_not_believed():
    children = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    try:
        with pytest.raises(hook.HookError, match="expected one"):
            hook.init_of(os.getpid())
    finally:
        for child in children:
            child.kill()
            child.wait()


REFUSED = (
    b'{"error":"io.vitrail.Broker.Refused","parameters":{"message":"no \\u001b[2J"}}\0'
)


@pytest.mark.parametrize("answer", [REFUSED, b"[]\0", b"nonsense\0", None, b"\0"])
@pytest.mark.parametrize("required", ["yes", "no"])
def test_without_an_answer_only_a_required_one_does_not_start(
    runtime, answer, required
):
    document = xml(SANDBOX.format("work", required))
    Broker(runtime, answer)
    done = run(runtime, "work", "prepare", "begin", "-", document=document)
    assert done.returncode == (1 if required == "yes" else 0)
    assert done.stderr.startswith(b"vitrail: cannot lease domain work: ")
    assert b"\x1b" not in done.stderr


@pytest.mark.parametrize("step", ["started", "reconnect", "release"])
def test_a_running_guest_is_never_ended_by_the_hook(runtime, step):
    """The broker is not there at all; libvirt ends a guest at exit code 1."""
    document = xml(SANDBOX.format("work", "yes"))
    substep = "end" if step == "release" else "begin"
    assert run(runtime, "work", step, substep, "-", document=document).returncode == 0


def test_a_broker_that_is_silent_is_given_up(runtime):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "vitrail/control"))
        listener.listen()
        with pytest.raises(hook.HookError, match="timed out"):
            hook.call(str(runtime / "vitrail/control"), {}, 0.2)


def test_a_broker_of_another_user_answers_nothing(runtime, monkeypatch):
    """Its socket is the person's, and the process that listens is not."""
    monkeypatch.setattr(hook, "peer_uid", lambda _: 0)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(runtime / "vitrail/control"))
        listener.listen()
        with pytest.raises(hook.HookError, match="another user"):
            hook.call(str(runtime / "vitrail/control"), {}, 5.0)


def test_steps_that_are_no_concern_of_ours_read_nothing(runtime):
    for words in (
        ("start", "begin", "-"),
        ("stopped", "end", "-"),
        ("migrate", "begin"),
    ):
        assert run(runtime, "work", *words, document=b"<broken").returncode == 0
    assert run(runtime).returncode == 0


def test_hostile_names_are_shown_escaped(runtime):
    done = run(runtime, "a\x1b]0;x\x07\n/é", "prepare", "begin", "-", document=b"<")
    assert done.returncode == 0
    assert done.stderr.strip().isascii()
    assert done.stderr.decode().strip().isprintable()


# -- required by a record ---------------------------------------------------------------

RECORD = """\
class = "persistent"
[launch]
kind = "external"
required = {required}
[peer]
libvirt = "{domain}"
"""


def write_record(folder, text, name="office"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)


@pytest.mark.parametrize("domain", ["work", UUID])
def test_a_domain_whose_record_requires_it_does_not_start_without_the_broker(
    runtime, domain
):
    text = RECORD.format(required="true", domain=domain)
    write_record(runtime / "vitrail/sandboxes.d", text)
    assert run(runtime, "work", "prepare", "begin", "-").returncode == 1
    assert run(runtime, "other", "started", "begin", "-").returncode == 0


FILESYSTEM = (
    "<filesystem><source socket='/run/{0}.sock'/><target dir='{0}'/></filesystem>"
)
REFUSED_XML = {
    "deep": xml(SANDBOX.format("work", "yes") + "<a>" * 70 + "</a>" * 70),
    "twice": xml(SANDBOX.format("work", "yes"), FILESYSTEM.format("a") * 2),
    "many": xml(
        SANDBOX.format("work", "yes"), "".join(map(FILESYSTEM.format, range(70)))
    ),
}


@pytest.mark.parametrize("document", REFUSED_XML.values(), ids=REFUSED_XML)
def test_required_domain_with_refused_xml_does_not_start(runtime, document):
    """Its metadata says so before the element that the hook refuses."""
    done = run(runtime, "work", "prepare", "begin", "-", document=document)
    assert done.returncode == 1, done.stderr


@pytest.mark.parametrize("domain", ["work", UUID])
def test_domain_with_refused_xml_is_required_by_its_record(runtime, domain):
    """The uuid may come after the refused element: which record it is, is not known."""
    text = RECORD.format(required="true", domain=domain)
    write_record(runtime / "vitrail/sandboxes.d", text)
    document = b"<domain>" + b"<a>" * 70 + b"</a>" * 70 + b"</domain>"
    assert (
        run(runtime, "any", "prepare", "begin", "-", document=document).returncode == 1
    )


@pytest.mark.parametrize("required", ["true", "false"])
def test_domain_with_refused_xml_starts_without_a_record_of_domains(runtime, required):
    """A required lease of a container, or a domain's that is not required."""
    text = "[launch]\nrequired = true\n"
    write_record(runtime / "vitrail/sandboxes.d", text, "container")
    if required == "false":
        text = RECORD.format(required="false", domain="work")
        write_record(runtime / "vitrail/sandboxes.d", text)
    done = run(runtime, "work", "prepare", "begin", "-", document=b"<domain>")
    assert done.returncode == 0


@pytest.mark.parametrize(
    "text",
    [
        RECORD.format(required="false", domain="work"),
        RECORD.format(required="true", domain="another"),
        RECORD.format(required="1", domain="work"),
        "[launch]\nrequired = true\n",
        "",
        "\0" * 5000,
    ],
)
def test_any_other_starts(runtime, text):
    write_record(runtime / "vitrail/sandboxes.d", text)
    assert run(runtime, "work", "prepare", "begin", "-").returncode == 0


def test_the_first_directory_s_record_of_a_name_counts(tmp_path):
    write_record(tmp_path / "a", RECORD.format(required="false", domain="work"))
    write_record(tmp_path / "b", RECORD.format(required="true", domain="work"))
    folders = [str(tmp_path / "none"), str(tmp_path / "a"), str(tmp_path / "b")]
    assert not hook.record_requires(folders, {"work"})
    assert hook.record_requires(folders[::-1], {"work"})


CHILD = """\
class = "persistent"
inherits = "base"
{own}[peer]
libvirt = "work"
{end}"""
BASE = """\
class = "persistent"
{inherits}[launch]
kind = "external"
required = {required}
"""


@pytest.mark.parametrize("end", ["", "a = = b\n"])
@pytest.mark.parametrize("name", ["base", "zoo"])
def test_a_lease_that_a_parent_record_requires_is_required(tmp_path, end, name):
    """The child is silent; a broken file is read by its words."""
    child = CHILD.format(own="", end=end).replace('"base"', f'"{name}"')
    write_record(tmp_path / "b", child)
    text = BASE.format(inherits="", required="true")
    write_record(tmp_path / "c", text, name)
    folders = [str(tmp_path / "a"), str(tmp_path / "b"), str(tmp_path / "c")]
    assert hook.record_requires(folders, {"work"})
    assert not hook.record_requires(folders, {"other"})
    # A record of that name in an earlier directory is the parent.
    write_record(tmp_path / "a", text.replace("true", "false"), name)
    assert not hook.record_requires(folders, {"work"})


@pytest.mark.parametrize("end", ["", "a = = b\n"])
def test_the_record_s_own_word_wins_over_its_parent_s(tmp_path, end):
    own = "[launch]\nrequired = false\n"
    write_record(tmp_path, CHILD.format(own=own, end=end))
    write_record(tmp_path, BASE.format(inherits="", required="true"), "base")
    assert not hook.record_requires([str(tmp_path)], {"work"})


def test_records_that_inherit_in_a_circle_end_the_search(tmp_path):
    write_record(tmp_path, CHILD.format(own="", end=""))
    write_record(tmp_path, 'inherits = "office"\n', "base")
    assert not hook.record_requires([str(tmp_path)], {"work"})


def test_a_record_with_a_mistake_is_read_by_its_words(tmp_path):
    text = RECORD.format(required="true", domain="work") + "a = = b\n"
    write_record(tmp_path, text)
    assert hook.record_requires([str(tmp_path)], {"work"})
    # Deeper than the parser goes: neither it nor another record is passed over.
    deep = "a = " + "[" * 4_000  # a longer line is not parsed
    (tmp_path / "a.toml").write_text(deep)
    assert hook.record_requires([str(tmp_path)], {"work"})


SQUARE = ".".join(["a"] * 30_000) + " = 1\n"
"""A key of which a parser of TOML takes some gigabytes."""


@pytest.mark.parametrize("more", [SQUARE, "a = 1\n" * 20_000], ids=["line", "file"])
def test_a_record_that_the_broker_refuses_for_its_size_is_not_parsed(
    tmp_path, monkeypatch, more
):
    def parsed(text):
        raise AssertionError(f"{len(text)} characters are parsed")

    monkeypatch.setattr(tomllib, "loads", parsed)
    write_record(tmp_path, RECORD.format(required="true", domain="work") + more)
    assert hook.record_requires([str(tmp_path)], {"work"})


def test_lines_without_a_word_do_not_take_the_square_of_their_number(tmp_path):
    """Attack: the time in which root's hook waits for the records."""
    record = RECORD.format(required="true", domain="work")
    (tmp_path / "a.toml").write_text("a = = b" + "\n" * 65_000)
    write_record(tmp_path, record)
    began = time.process_time()
    assert hook.record_requires([str(tmp_path)], {"work"})
    assert time.process_time() - began < 2


def test_records_on_which_the_reading_process_dies_are_required(monkeypatch):
    def dies(*_):
        os.kill(os.getpid(), signal.SIGKILL)

    def fails(*_):
        raise MemoryError

    for ends in (dies, fails):
        monkeypatch.setattr(hook, "record_requires", ends)
        assert hook.user_requires(os.getuid(), {"work"}) is True


def test_the_process_that_reads_records_has_little_memory(monkeypatch):
    def limited(*_):
        return resource.getrlimit(resource.RLIMIT_AS)[0] == hook.CHILD_BYTES

    monkeypatch.setattr(hook, "record_requires", limited)
    assert hook.user_requires(os.getuid(), {"work"}) is True


def test_only_a_regular_file_is_a_record(tmp_path):
    """Attack: a pipe that never ends, in the runtime of a record."""
    path = tmp_path / "office.toml"
    os.mkfifo(path)
    writer = os.open(path, os.O_RDWR)
    try:
        os.write(writer, RECORD.format(required="true", domain="work").encode())
        assert hook._words_of(str(path)).domain == ""
    finally:
        os.close(writer)


def test_records_that_are_not_read_in_time_do_not_hold_libvirt_up(monkeypatch):
    """Attack: a file system of the person's that never answers."""
    monkeypatch.setattr(hook, "RECORDS_SECONDS", 0.2)
    monkeypatch.setattr(hook, "record_requires", lambda *_: signal.pause())
    assert hook.user_requires(os.getuid(), {"work"}) is False


def test_root_reads_them_with_the_rights_of_the_person(monkeypatch):
    taken = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    for name in ("setgroups", "setgid", "setuid"):
        monkeypatch.setattr(os, name, lambda value, name=name: taken.append(name))
    real = pwd.getpwnam("nobody")
    hook.become(real.pw_uid)
    assert taken == ["setgroups", "setgid", "setuid"]


def test_the_systems_drivers_both_have_the_hook(tmp_path):
    written = install_hook(1000, tmp_path / "hooks", tmp_path / "etc/settings.json")
    names = [str(path.relative_to(tmp_path)) for path in written]
    assert names == ["hooks/qemu.d/vitrail", "hooks/lxc.d/vitrail", "etc/settings.json"]
    assert all(os.access(path, os.X_OK) for path in written[:2])
    assert [p.name for p in install_hook(None, tmp_path / "own")] == ["vitrail"]
    assert not (tmp_path / "own/lxc.d").exists()
