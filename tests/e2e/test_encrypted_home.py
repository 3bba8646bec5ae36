"""An encrypted home, from the command that unlocks it to the second machine."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from broker.core.errors import SetupError, VitrailError
from broker.core.names import SandboxName
from broker.launch.state import keyring
from broker.launch.state.store import HomeStore
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
        disk = HomeStore(w.paths.homes).require(name).disk
        data = disk.read_bytes()
        assert data.startswith(b"LUKS")
        assert b"treasure-map" not in data
        assert b"vitrail-home" not in data
        code, said = await w.output(name, "cat", "kept")
        assert (code, said) == (0, b"treasure-map\n")
        for pid in w.processes():
            for part in ("cmdline", "environ"):
                found = Path(f"/proc/{pid}/{part}").read_bytes()
                assert PASSPHRASE.encode() not in found
        await w.stop(name)
        log = (w.paths.state / "broker.log").read_text()
        assert PASSPHRASE not in log
        assert PASSPHRASE not in str(w.events())
