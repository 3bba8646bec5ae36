"""OpenSSH as programs of a test: keys, an agent, a server, all in separate directories."""

from __future__ import annotations

import os
import pwd
import shlex
import subprocess
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from broker.helpers.process.spawn import DEVNULL, spawn
from tests.kit.eventually import eventually
from tests.kit.listening import takes_connections

SSHD = "/usr/sbin/sshd"
CONFIG = """\
HostKey {folder}/host
AuthorizedKeysFile {folder}/authorized
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowAgentForwarding yes
PidFile none
LogLevel DEBUG1
Subsystem sftp internal-sftp
"""


def made_key(path, comment, kind="ed25519", *options):
    """Make a key without a passphrase; returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ("-q", "-N", "", "-t", kind, "-C", comment, "-f", str(path), *options)
    subprocess.run(("ssh-keygen", *words), check=True, timeout=60)
    return path


def certified(path, authority, *principals):
    """Make a certificate of a key, which ssh-add(1) adds beside it; returns the key."""
    names = ",".join(principals)
    words = ("-q", "-s", str(authority), "-I", "an identity", "-n", names)
    subprocess.run(("ssh-keygen", *words, f"{path}.pub"), check=True, timeout=60)
    return path


def public(path):
    """The type and the base64 form of a key."""
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


@asynccontextmanager
async def running(words, **more):
    child = spawn(words, stdout=DEVNULL, **more)
    try:
        yield child
    finally:
        await child.kill_and_wait()


@asynccontextmanager
async def agent(folder, *keys, options=(), more=None):
    """Run an agent with keys; yields its socket.

    ``options``: of ssh-add(1), before each key.  ``more``: variables of the environment.
    """
    folder.mkdir(mode=0o700)
    sock = folder / "sock"
    env = {**os.environ, **(more or {})}
    words = ["ssh-agent", "-D", "-P", "/usr/lib*,/tmp/*", "-a", str(sock)]
    async with running(words, env=env):
        await eventually(lambda: takes_connections(sock))
        env["SSH_AUTH_SOCK"] = str(sock)
        for key in keys:
            words = ("ssh-add", "-q", *options, str(key))
            subprocess.run(words, check=True, env=env, timeout=60)
        yield sock


@dataclass
class Host:
    """A server that each client starts for its connection: nothing listens."""

    folder: Path
    key: str
    """The host's public key."""

    @property
    def server(self):
        """The command that serves one connection at its standard input and output."""
        server = f"{SSHD} -i -f {self.folder}/config -E {self.folder}/log"
        accounts = self.folder / "passwd"
        if accounts.exists():
            binds = f"--dev-bind / / --ro-bind {accounts} /etc/passwd"
            server = f"bwrap {binds} -- {server}"
        return server

    def words(self, program, known, name, *options, way=""):
        """Words of ssh(1) or sftp(1) that reach it by a name that ``known`` has.

        ``way``: a command that leads to it, if it is not started by the client.
        """
        server = way or self.server
        options = (
            *(f"UserKnownHostsFile={known}", f"HostKeyAlias={name}", "BatchMode=yes"),
            *(f"ProxyCommand={server}", *options),
        )
        return shlex.join([program, "-F", "none", *(f"-o{one}" for one in options)])


def host(folder, *keys):
    """Make a server's settings; these keys lead to it."""
    folder.mkdir(mode=0o700)
    made_key(folder / "host", "host")
    (folder / "authorized").write_text("".join(f"{public(key)}\n" for key in keys))
    (folder / "config").write_text(CONFIG.format(folder=folder))
    user = pwd.getpwuid(os.getuid())
    if "nologin" in user.pw_shell:
        # Inside of the server the user of a test has a shell.
        lines = Path("/etc/passwd").read_text().splitlines()
        made = [
            line.replace(user.pw_shell, "/bin/sh")
            if line.startswith(f"{user.pw_name}:")
            else line
            for line in lines
        ]
        (folder / "passwd").write_text("\n".join(made) + "\n")
    return Host(folder, public(folder / "host"))
