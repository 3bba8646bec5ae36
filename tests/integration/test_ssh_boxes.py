"""``brokerctl ssh-config`` with OpenSSH: ssh, scp, rsync and git reach a box's sshd."""

from __future__ import annotations

import os
import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from broker.core.errors import UpstreamError
from broker.helpers.process.spawn import run_tool
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES
from tests.kit.world import world

SSHD = "/usr/sbin/sshd"
PORT = 2222
ROOT = Path(__file__).parents[2]
RULES = "vitrail.Tcp +2222 @adminvm work allow\n"
RECORD = """\
class = "persistent"
[launch]
kind = "bwrap"
bind_read_only = ["{key}.pub"]
"""
SERVER = """
set -e
mkdir ~/own
cp {key}.pub ~/own/authorized
ssh-keygen -q -t ed25519 -N '' -f ~/own/host
cat >~/own/config <<END
Port {port}
ListenAddress 127.0.0.1
HostKey ~/own/host
AuthorizedKeysFile $HOME/own/authorized
StrictModes no
PidFile none
UsePAM no
PasswordAuthentication no
Subsystem sftp internal-sftp
END
sed -i "s,~,$HOME," ~/own/config
exec vitrail-services {sshd} -D -e -f ~/own/config
"""
pytestmark = [
    PID_NAMESPACES,
    pytest.mark.skipif(
        not all(map(shutil.which, ("ssh", "scp", "rsync", "git", SSHD))),
        reason="openssh-client, openssh-server, rsync or git is not installed",
    ),
]


@asynccontextmanager
async def served():
    """A box with an sshd; gives its world and the words of an ssh client."""
    async with world({}, start=False, image=False) as w:
        w.write_rules(RULES)
        key = w.base / "key"
        await run_tool(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)])
        w.write_record("work", RECORD.format(key=key))
        await w.start()
        script = SERVER.format(key=key, port=PORT, sshd=SSHD)
        words = ("run", "-q", "work", "--", "sh", "-c", script)
        async with running(*words, env=w.environ):
            await w.wait_event("stream.opened", service="vitrail.Call")
            answer = await brokerctl(
                "ssh-config", "--port", str(PORT), "work", env=w.environ
            )
            assert answer.code == 0, answer
            config = w.base / "ssh.conf"
            more = f"IdentityFile {key}\nUserKnownHostsFile {w.base}/known\n"
            config.write_text(f"{answer.out}{more}StrictHostKeyChecking accept-new\n")
            yield w, ["-F", str(config)]


async def test_ssh_and_what_builds_on_it(tmp_path):
    much = os.urandom(3_000_000)
    (tmp_path / "much").write_bytes(much)
    name = "work"
    async with served() as (w, client):
        env = {**w.environ, "PATH": f"{ROOT}:{os.environ['PATH']}"}

        async def tool(*argv):
            return await run_tool(list(argv), env=env, deadline=100)

        async def logged_in():
            try:
                return await tool("ssh", *client, name, "echo $HOME; id -un")
            except UpstreamError:
                return None  # it does not listen yet

        assert await eventually(logged_in, deadline=60) == b"/home/user\nuser\n"
        shell = f"ssh {' '.join(client)}"
        await tool("scp", *client, str(tmp_path / "much"), f"{name}:/tmp/much")
        await tool("scp", *client, f"{name}:/tmp/much", str(tmp_path / "back"))
        assert (tmp_path / "back").read_bytes() == much
        await tool("rsync", "-e", shell, f"{name}:/tmp/much", str(tmp_path / "synced"))
        assert (tmp_path / "synced").read_bytes() == much
        await tool("ssh", *client, name, "git init -q --bare /tmp/store")
        env["GIT_SSH_COMMAND"] = shell
        assert await tool("git", "ls-remote", f"{name}:/tmp/store") == b""
        decided = w.events("decision", service="vitrail.Tcp")
        assert {(e["sandbox"], e["argument"]) for e in decided} == {
            ("work", f"+{PORT}")
        }
