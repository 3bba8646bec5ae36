"""Large programs of the machine in boxes, with the settings that Debian gives them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.kit.brokerctl import brokerctl, running
from tests.kit.needs import PID_NAMESPACES
from tests.kit.wayland.compositor import wait_window
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, pytest.mark.slow, pytest.mark.timeout(300)]
BROWSER = """\
class = "disposable"
display = "allow"
[launch]
kind = "bwrap"
command = ["chromium"]
user_namespaces = true
"""
"""Chromium does not start without a sandbox of its own."""
OWN_TLS = """
cd /tmp
openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -subj /CN=localhost \
    -addext subjectAltName=DNS:localhost -days 2 2>/dev/null
openssl s_server -quiet -accept 4433 -key key -cert cert -www >/dev/null 2>&1 &
curl -sS --retry 50 --retry-connrefused --retry-delay 1 --cacert cert https://localhost:4433/ >/dev/null 2>&1
echo "trusted $?"
curl -sS https://localhost:4433/ >/dev/null 2>&1
echo "unknown $?"
kill $!
"""


def missing(*programs: str) -> pytest.MarkDecorator:
    lacks = [name for name in programs if shutil.which(name) is None]
    return pytest.mark.skipif(bool(lacks), reason=f"{', '.join(lacks)} is missing")


@missing("chromium")
async def test_chromium_shows_a_window():
    async with world(image=False) as w:
        w.write_record("web", BROWSER)
        async with running("run", "-q", "web", env=w.environ):
            await wait_window(w.comp, title="Chromium", deadline=120)


@missing("node")
async def test_node_runs_a_program():
    async with world(image=False) as w:
        words = ("node", "-e", "console.log(6 * 7)")
        answer = await brokerctl("run", "-q", "--bwrap", "--", *words, env=w.environ)
        assert (answer.code, answer.out) == (0, "42\n"), answer


@missing("curl", "openssl")
async def test_curl_believes_the_certificates_that_it_should(tmp_path):
    """The machine's store is read: one that is not in it is refused for that reason."""
    async with world(image=False) as w:
        words = ("run", "-q", "--bwrap", "--", "sh", "-c", OWN_TLS)
        answer = await brokerctl(*words, env=w.environ)
    assert answer.out.splitlines() == ["trusted 0", "unknown 60"], answer


@missing("gdbus")
async def test_a_program_of_the_session_bus_runs():
    """libdbus and GLib want a machine-id; a record's box has a bus."""
    async with world(image=False) as w:
        record = BROWSER.replace("user_namespaces = true\n", "")
        w.write_record("web", record)
        method = "org.freedesktop.DBus.GetId"
        where = ("--dest", "org.freedesktop.DBus", "--object-path", "/")
        words = ("gdbus", "call", "--session", *where, "--method", method)
        answer = await brokerctl("run", "-q", "web", "--", *words, env=w.environ)
        assert answer.code == 0, answer
        words = ("dbus-uuidgen", "--get")
        if shutil.which(words[0]):
            found = await brokerctl("run", "-q", "web", "--", *words, env=w.environ)
            own = subprocess.run(words, capture_output=True, text=True, check=False)
            assert found.code == 0, found
            assert found.out != own.stdout
