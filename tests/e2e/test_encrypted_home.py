"""An encrypted home, from the command that unlocks it to the second machine."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from broker.cli.homes.home_copies import HomeCopies
from broker.core.errors import SetupError, VitrailError
from broker.core.names import SandboxName
from broker.helpers.process.spawn import run_tool
from broker.host.homes import encrypted, keyring
from tests.kit.eventually import eventually
from tests.kit.vm.machines import require_vm
from tests.kit.world import record, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]
PASSPHRASE = "correct horse battery"


@pytest.fixture
def name():
    """A record that no other test has: keyrings are shared by all of a user."""
    require_vm()
    sandbox = SandboxName(f"bank-{secrets.token_hex(4)}")
    try:
        keyring.read(sandbox)
    except SetupError as error:
        pytest.skip(f"needs the kernel's keyring: {error}")
    yield sandbox
    keyring.forget(sandbox)


def brokerctl(w, *words, said=""):
    return subprocess.run(
        [sys.executable, "-m", "broker.cli.app", *words],
        env={**w.environ, "PYTHONPATH": str(Path.cwd())},
        input=said,
        text=True,
        capture_output=True,
        timeout=300,
        check=False,
    )


async def test_a_home_is_unlocked_written_and_found_again(name):
    text = record("persistent", launch='[state]\nencrypted = true\ndisk_size = "128M"')
    async with world({name: text}) as w:
        with pytest.raises(VitrailError, match="locked") as caught:
            await w.output(name, "true")
        assert "sandbox unlock" in str(caught.value.diagnostics())
        file = w.base / "passphrase"
        file.write_text(PASSPHRASE)
        done = brokerctl(w, "sandbox", "unlock", name, "--passphrase-file", str(file))
        assert done.returncode == 0, done.stderr
        code, _ = await w.output(name, "sh", "-c", "echo treasure-map > kept; sync")
        assert code == 0
        await w.stop(name)
        disk = HomeCopies(w.paths.homes).require(name).disk
        data = disk.read_bytes()
        assert data.startswith(b"LUKS")
        assert b"treasure-map" not in data
        assert b"vitrail-home" not in data
        code, said = await w.output(name, "cat", "kept")
        assert (code, said) == (0, b"treasure-map\n")
        closed = []
        for pid, words in w.processes().items():
            assert PASSPHRASE.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
            try:
                found = Path(f"/proc/{pid}/environ").read_bytes()
            except PermissionError:
                closed.append(words)
            else:
                assert PASSPHRASE.encode() not in found
        assert [
            words for words in closed if "broker.programs.authority" not in words
        ] == []
        await w.stop(name)
        log = (w.paths.state / "broker.log").read_text()
        assert PASSPHRASE not in log
        assert PASSPHRASE not in str(w.events())


JOURNAL = """
number=0
while :; do
    number=$((number + 1))
    head -c 65536 /dev/urandom >>journal-$((number % 8))
    echo $number >next && sync next && mv next current && sync
done
"""


async def decrypted(disk, copy):
    """Write the file system within an encrypted disk into a file."""
    key = encrypted.passphrase_pipe(PASSPHRASE.encode())
    source = f"driver=luks,key-secret={encrypted.KEY},file.filename={disk}"
    words = ["qemu-img", "convert", *encrypted.secret_args(key)]
    words += ["--image-opts", source, "-O", "raw", str(copy)]
    try:
        await run_tool(words, pass_fds=(key,), deadline=120)
    finally:
        os.close(key)


async def power_cut(w, name):
    """Kill the machine while its program writes; returns the confirmed writes."""
    last, _ = await w.run(name, "sh", "-c", JOURNAL, window=False)
    assert last.started.sandbox == name

    async def counted():
        code, said = await w.output(name, "cat", "current")
        # Its last sync may not have ended; that of the number before has.
        return int(said) - 1 if code == 0 and int(said) > 2 else 0

    known = await eventually(counted)
    pid = await w.pid_of("QEMU", name)
    pidfd = os.pidfd_open(pid)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with trio.fail_after(60):
        await trio.lowlevel.wait_readable(pidfd)
    os.close(pidfd)

    async def ended():
        status = await w.status()
        busy = HomeCopies(w.paths.homes).in_use(name)
        return not busy and name not in {s.name for s in status.sandboxes}

    await eventually(ended)
    return known


async def test_a_power_cut_leaves_a_home_that_opens_and_is_clean(name):
    text = record("persistent", launch='[state]\nencrypted = true\ndisk_size = "128M"')
    async with world({name: text}) as w:
        unlock = ("sandbox", "unlock", name, "--passphrase-file", str(w.base / "pass"))
        (w.base / "pass").write_text(PASSPHRASE)
        assert brokerctl(w, *unlock).returncode == 0
        known = await power_cut(w, name)
        assert brokerctl(w, "sandbox", "lock", name).returncode == 0
        plain = w.base / "plain"
        await decrypted(HomeCopies(w.paths.homes).require(name).disk, plain)
        # The guest's kernel replays the journal at the next mount, as this does.
        subprocess.run(["/sbin/e2fsck", "-p", plain], check=False)
        subprocess.run(["/sbin/e2fsck", "-f", "-n", plain], check=True)
        assert brokerctl(w, *unlock).returncode == 0
        code, said = await w.output(name, "cat", "current")
        assert code == 0
        assert int(said) >= known
        await w.stop(name)
