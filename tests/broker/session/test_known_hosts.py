"""Names of hosts by their keys."""

from __future__ import annotations

import base64
import shutil
import subprocess

import pytest

from broker.core.ssh_agent import string
from broker.ipc.session.service_orders import KnownHost
from broker.session.ssh import known_hosts
from broker.session.ssh.known_hosts import known_host, names_of

KEY = b"the key of a host"
TEXT = base64.b64encode(KEY).decode()


@pytest.fixture
def known(tmp_path, monkeypatch):
    monkeypatch.setattr(known_hosts, "FILES", ())
    (tmp_path / ".ssh").mkdir()
    return tmp_path / ".ssh/known_hosts"


def test_a_host_has_the_names_of_its_key(known, tmp_path):
    assert names_of(KEY, (), tmp_path) == ()
    known.write_text(
        "# a comment\n"
        f"b.test,[A.test]:2222 ssh-ed25519 {TEXT} comment\n"
        f"*.wild.test,!not.test ssh-ed25519 {TEXT}\n"
        f"@cert-authority every.test ssh-ed25519 {TEXT}\n"
        "other.test ssh-ed25519 AAAA\nbroken\n"
    )
    assert names_of(KEY, (), tmp_path) == ("b.test", "[a.test]:2222")
    names = ("[a.test]:2222",)
    assert names_of(KEY, names, tmp_path) == ("[a.test]:2222", "b.test")
    assert names_of(KEY, ("a.test",), tmp_path) == ("b.test", "[a.test]:2222")
    with known.open("a") as file:
        file.write(f"@revoked b.test ssh-ed25519 {TEXT}\n")
    assert names_of(KEY, (), tmp_path) == ()


def test_another_port_of_a_host_is_another_server(known, tmp_path):
    """A sandbox reaches both: a login at one was one at the other, for rule and question."""
    other = base64.b64encode(b"the key of the host's other server").decode()
    known.write_text(
        f"git.test,[c.test]:22 ssh-ed25519 {TEXT}\n[git.test]:2222 ssh-ed25519 {other}\n"
    )
    assert names_of(KEY, (), tmp_path) == ("git.test", "c.test")
    found = names_of(base64.b64decode(other), ("git.test",), tmp_path)
    assert found == ("[git.test]:2222",)


def test_a_host_with_a_certificate_has_the_names_of_its_key(known, tmp_path):
    """It has signed with the key in it; a revoked one names no host."""
    plain = string(b"ssh-ed25519") + string(b"p" * 32)
    fields = (b"ssh-ed25519-cert-v01@openssh.com", b"n", b"p" * 32)
    certificate = b"".join(map(string, fields)) + bytes(60)
    line = f"a.test ssh-ed25519 {base64.b64encode(plain).decode()}\n"
    known.write_text(line)
    assert names_of(certificate, (), tmp_path) == ("a.test",)
    known.write_text(f"{line}@revoked {line}")
    assert names_of(certificate, (), tmp_path) == ()


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="needs openssh-client")
def test_a_hashed_name_is_found_by_who_thinks_of_it(known, tmp_path):
    """As ssh-keygen hashes it."""
    made = tmp_path / "key"
    keygen = ("ssh-keygen", "-q")
    subprocess.run(
        (*keygen, "-t", "ed25519", "-N", "", "-f", made), check=True, timeout=60
    )
    kind, text, *_ = made.with_suffix(".pub").read_text().split()
    known.write_text(f"git.test {kind} {text}\n[git.test]:22222 {kind} {text}\n")
    subprocess.run((*keygen, "-H", "-f", known), check=True, timeout=60)
    assert "git.test" not in known.read_text()
    key = base64.b64decode(text)
    assert names_of(key, (), tmp_path) == ()
    assert names_of(key, ("x.test", "git.test"), tmp_path) == ("git.test",)
    there = "[git.test]:22222"
    assert names_of(key, ("[git.test]:2222", there), tmp_path) == (there,)


def hashed(names, tmp_path):
    """Return the text of a known_hosts with these names of KEY, hashed by ssh-keygen."""
    file = tmp_path / "made"
    file.write_text("".join(f"{name} ssh-ed25519 {TEXT}\n" for name in names))
    subprocess.run(("ssh-keygen", "-q", "-H", "-f", file), check=True, timeout=60)
    return file.read_text()


needs_keygen = pytest.mark.skipif(
    shutil.which("ssh-keygen") is None, reason="needs openssh-client"
)
KEY_OF_SSH = string(b"ssh-ed25519") + string(b"p" * 32)


@needs_keygen
@pytest.mark.parametrize(
    "name", ["git.company.test", "[git.company.test]:2222", "10.0.0.7", "github.com"]
)
@pytest.mark.usefixtures("known")
def test_a_hashed_name_is_that_of_the_users_configuration(tmp_path, monkeypatch, name):
    """Debian's ssh hashes names: without this the question shows two fingerprints."""
    monkeypatch.setitem(globals(), "TEXT", base64.b64encode(KEY_OF_SSH).decode())
    (tmp_path / ".ssh/known_hosts").write_text(hashed([name], tmp_path))
    (tmp_path / ".ssh/config").write_text(
        "Host *\n  HashKnownHosts yes\nHost git.company.test !no.test\n"
        "  Port=2222\nHost work\n  HostName 10.0.0.7\n"
    )
    assert known_host(KEY_OF_SSH, (), tmp_path) == KnownHost((name,))


@needs_keygen
@pytest.mark.usefixtures("known")
def test_a_hashed_name_that_nobody_thinks_of_has_its_line(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "TEXT", base64.b64encode(KEY_OF_SSH).decode())
    (tmp_path / ".ssh/known_hosts").write_text(
        "# mine\n" + hashed(["git.secret.test"], tmp_path)
    )
    host = known_host(KEY_OF_SSH, ("other.test",), tmp_path)
    assert host == KnownHost((), "line 2 of ~/.ssh/known_hosts")
    assert known_host(b"another key", (), tmp_path) == KnownHost()


@pytest.mark.usefixtures("known")
def test_a_large_configuration_of_ssh_is_read_within_bounds(tmp_path):
    (tmp_path / ".ssh/known_hosts").write_text(
        f"|1|c2FsdA==|AAAA ssh-ed25519 {TEXT}\n" * 5
    )
    lines = (f"Host h{number}\nPort {number}\n" for number in range(20_000))
    (tmp_path / ".ssh/config").write_text("".join(lines))
    assert known_host(KEY, (), tmp_path).names == ()
