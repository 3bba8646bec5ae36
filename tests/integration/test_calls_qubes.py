"""Programs of the shape of Qubes' add-ons run unchanged.

A signer at ``qrexec-client-vm`` with its streams on a socket (split-gpg2), an agent
that asks by a local program (split-ssh), and a converter that sends a header of sizes
before its pixels, and exits with a different error (PDF and image converters).
"""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager

from shims.files import services
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import world

pytestmark = requires("waypipe")
RULES = """\
test.Sign    *        work  @default  allow  target=vault
test.Ssh     *        work  vault     allow
test.Convert +pixels  work  vault     allow
test.Convert *        work  vault     deny
"""
SERVICES = {
    # Line by line, as an assuan server answers.
    "test.Sign": 'echo "OK from $QREXEC_REMOTE_DOMAIN"\n'
    "while read -r line; do\n"
    '  case "$line" in BYE) echo "OK closing"; exit 0;; *) echo "S $line";; esac\n'
    "done",
    "test.Ssh": 'read -r question; echo "signed $question by $QREXEC_SERVICE_ARGUMENT"',
    "test.Convert": "head -c 4 >/dev/null; read -r size || exit 3\n"
    'echo "$size $QREXEC_SERVICE_FULL_NAME"; head -c "$size" | tr a-z A-Z',
}
# With its standard streams on one socket, as systemd starts one for a connection.
BY_SOCKET = """\
import socket, subprocess
ours, theirs = socket.socketpair()
child = subprocess.Popen(
    ["qrexec-client-vm", "@default", "test.Sign"], stdin=theirs, stdout=theirs
)
theirs.close()
with ours.makefile("rw") as stream:
    print(stream.readline(), end="")
    for word in ("KEYINFO", "BYE"):
        stream.write(word + "\\n")
        stream.flush()
        print(stream.readline(), end="")
print(child.wait())
"""


@asynccontextmanager
async def sandboxes():
    async with world({}, start=False, image=False) as w:
        folder = w.write_rules(RULES).parent
        await w.start()
        async with plain(w, "work", "vault") as guests:
            folder = guests["vault"].home / ".config/vitrail-services"
            folder.mkdir(parents=True)
            for name, script in SERVICES.items():
                (folder / name).write_text(f"#!/bin/sh\n{script}\n")
                (folder / name).chmod(0o755)
            yield guests["work"]


def test_a_service_has_the_environment_of_a_login(tmp_path, monkeypatch):
    """As one of Qubes': split-ssh's finds its agent by it."""
    (tmp_path / ".profile").write_text("export SSH_AUTH_SOCK=/run/agent\n")
    (tmp_path / "test.Ssh").write_text('echo "$SSH_AUTH_SOCK $1"\n')
    (tmp_path / "test.Ssh+key").write_text('#!/bin/sh\necho "$SSH_AUTH_SOCK, a key"\n')
    (tmp_path / "test.Ssh+key").chmod(0o755)
    monkeypatch.setattr(services, "QUBES_SERVICES", (str(tmp_path),))
    for argument, said in (
        ("", "/run/agent \n"),
        ("a", "/run/agent a\n"),
        ("key", "/run/agent, a key\n"),
    ):
        words = services.find_service("test.Ssh", argument)
        env = {"HOME": str(tmp_path), "PATH": os.environ["PATH"]}
        assert subprocess.check_output(words, env=env, text=True) == said


async def test_programs_of_the_shape_of_qubes_add_ons():
    async with sandboxes() as work:
        (work.home / "by-socket.py").write_text(BY_SOCKET)
        code, said = await work.script("python3 by-socket.py")
        assert (code, said) == (0, "OK from work\nS KEYINFO\nOK closing\n0\n")

        # The local program has the service's streams, and ours beside them.
        local = 'echo data; read -r answer; echo "got $answer" >&$SAVED_FD_1'
        code, said = await work.script(
            "qrexec-client-vm --buffer-size=65536 --no-filter-escape-chars-stdout "
            f"vault test.Ssh+key1 /bin/sh -c '{local}'"
        )
        assert (code, said) == (0, "got signed data by key1\n")

        code, said = await work.script(
            "{ printf 'PNG '; echo 5; printf hello; } | "
            "qrexec-client-vm -t vault test.Convert+pixels"
        )
        assert (code, said) == (0, "5 test.Convert+pixels\nHELLO")
        code, said = await work.script(
            "printf 'PNG ' | qrexec-client-vm vault test.Convert+pixels"
        )
        assert (code, said) == (3, "")
        code, said = await work.script(
            "qrexec-client-vm vault test.Convert+text true; echo =$?; "
            "qrexec-client-vm vault; echo =$?"
        )
        assert "=125\n" in said, said
        assert "usage: qrexec-client-vm" in said
