"""Attack: a program between a machine and its fleet's database asks for the password.

The server at 127.0.0.2, which counts as another machine, says that it has no TLS, and
wants the password in clear.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.helpers.shipper.config import load_config
from broker.helpers.shipper.database import connect

_SSL_REQUEST = 80877103
_GSS_REQUEST = 80877104


class Between:
    """A server without TLS that keeps its input."""

    def __init__(self) -> None:
        self._listening = socket.create_server(("127.0.0.2", 0))
        self.port = self._listening.getsockname()[1]
        self.got = b""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listening.accept()
            except OSError:
                return
            with sock:
                self._talk(sock)

    def _talk(self, sock: socket.socket) -> None:
        while data := sock.recv(4096):
            self.got += data
            (code,) = struct.unpack(">I", data[4:8].ljust(4, b"\0"))
            if code in {_SSL_REQUEST, _GSS_REQUEST}:
                sock.sendall(b"N")
            elif data[:1] == b"p":
                return
            else:
                sock.sendall(b"R" + struct.pack(">II", 8, 3))

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)


@pytest.fixture(name="between")
def _between(monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    for name in ("PGHOST", "PGHOSTADDR", "PGSSLMODE", "PGSERVICE"):
        monkeypatch.delenv(name, raising=False)
    server = Between()
    yield server
    server.close()


@pytest.mark.parametrize(
    "address",
    [
        "postgresql://desk7:hunter2@127.0.0.2:{}/audit",
        "postgresql://desk7:hunter2@127.0.0.2:{}/audit?sslmode=prefer",
        "postgresql://desk7:hunter2@127.0.0.2:{}/audit?sslmode=require",
        "postgresql://desk7:hunter2@localhost:{}/audit?hostaddr=127.0.0.2",
        "postgresql://desk7:hunter2@localhost,127.0.0.2:{0},{0}/audit",
        "postgresql://desk7:hunter2@localhost/audit?host=127.0.0.2&port={}",
        "host=127.0.0.2 port={} user=desk7 password=hunter2 dbname=audit",
        "host = '127.0.0.2' port={} user=desk7 password=hunter2 sslmode=disable",
    ],
)
def test_no_password_goes_to_another_machine_in_clear(between, address):
    with pytest.raises(SetupError):
        connect(address.format(between.port)).close()
    assert between.got == b""


def test_the_rest_of_a_password_is_no_host():
    """libpq ends a password at its first '@', and would look the rest up as a name."""
    with pytest.raises(SetupError, match="write %40"):
        connect("postgresql://ship:one@two@127.0.0.1/vitrail")


def test_a_server_without_tls_gets_no_password(between):
    address = f"postgresql://desk7:hunter2@127.0.0.2:{between.port}/a"
    with pytest.raises(UpstreamError):
        connect(f"{address}?sslmode=verify-full").close()
    assert b"hunter2" not in between.got


@pytest.mark.parametrize("name", ["PGHOST", "PGHOSTADDR", "PGSERVICE"])
@pytest.mark.parametrize("host", ["", "localhost"])
def test_the_environment_leads_no_address_elsewhere(
    between, name, host, monkeypatch, tmp_path
):
    services = tmp_path / "services"
    services.write_text(
        "[fleet]\nhost=127.0.0.2\nhostaddr=127.0.0.2\nsslmode=disable\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(services))
    monkeypatch.setenv(name, "fleet" if name == "PGSERVICE" else "127.0.0.2")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    with pytest.raises(VitrailError):
        connect(f"postgresql://desk7@{host}:{between.port}/audit").close()
    assert between.got == b""


def test_the_environment_switches_no_tls_off(between, monkeypatch):
    monkeypatch.setenv("PGSSLMODE", "disable")
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    address = f"postgresql://desk7@127.0.0.2:{between.port}/audit"
    with pytest.raises(UpstreamError):
        connect(f"{address}?sslmode=verify-ca").close()
    assert b"hunter2" not in between.got


def test_plaintext_is_for_who_says_so(between):
    address = f"postgresql://desk7:hunter2@127.0.0.2:{between.port}/audit"
    with pytest.raises(UpstreamError):
        connect(address, plaintext=True).close()
    assert b"hunter2" in between.got


SECRETS = [
    "to = 'postgresql'\naddress = 'postgresql://h/d?sslpassword=hunter2'",
    "to = 'postgresql'\naddress = 'postgresql://h/d?pass%77ord=hunter2'",
    "to = 'postgresql'\naddress = 'postgresql://h/d?passfile=/hunter2'",
    "to = 'postgresql'\naddress = 'host=h sslpassword=hunter2'",
    "to = 'postgresql'\naddress = 'postgresql://h/d?oauth_client_secret=hunter2'",
    "to = 'otlp'\nendpoint = 'https://hunter2@h/v1/logs'",
    "to = 'otlp'\nendpoint = 'https://:hunter2@h/v1/logs'",
    "to = 'otlp'\nendpoint = 'https://h/v1/logs?token=hunter2'",
    "to = 'otlp'\nendpoint = 'https://h/hunter2-hunter2-hunter2/v1/logs'",
]


@pytest.mark.parametrize("line", SECRETS)
def test_a_secret_is_one_wherever_it_stands(tmp_path, line):
    path = tmp_path / "ship.toml"
    path.write_text(f"[[target]]\nname = 'a'\n{line}\n")
    path.chmod(0o644)
    with pytest.raises(SetupError, match="readable by others") as caught:
        load_config(path)
    assert "hunter2" not in str(caught.value)
    path.chmod(0o600)
    (target,) = load_config(path).target
    assert "hunter2" not in target.where()


@pytest.mark.parametrize("password", ["se/cret", "se#cret", "se?cret", "se@cret"])
def test_a_password_that_another_would_read_differently_is_refused(tmp_path, password):
    address = f"postgresql://u:{password}@h/d"
    path = tmp_path / "ship.toml"
    path.write_text(f"[[target]]\nname='a'\nto='postgresql'\naddress='{address}'\n")
    path.chmod(0o600)
    for attempt in (lambda: load_config(path), lambda: connect(address).close()):
        with pytest.raises(SetupError) as caught:
            attempt()
        assert "cret" not in str(caught.value)
