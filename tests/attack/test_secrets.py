"""Secrets of the person's where they are of no use: workers, core files, own addresses."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from broker.host.network.frameguard.ethernet_frames import FrameFilter
from broker.ipc import worker
from tests.broker.host.network.test_ethernet_frames import packet
from tests.broker.viewer.sound.test_sandbox_sound import sound

ROOT = Path(__file__).resolve().parents[2]


# -- the sound server's cookie ------------------------------------------------------------


async def test_no_worker_gets_the_persons_cookie(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With it, a worker that was taken over could be the person at any sound server."""
    cookie = secrets.token_bytes(256)
    file = tmp_path / "cookie"
    file.write_bytes(cookie)
    monkeypatch.setenv("PULSE_COOKIE", str(file))
    async with sound(tmp_path) as (_, paper, _):
        assert paper.orders, "it has its order"
        for order in paper.orders:
            assert cookie not in worker.encode(order)


# -- core files ----------------------------------------------------------------------------

_ABORTS = "import os; {}; os.abort()"
_FORBID = "from broker.helpers.process.core_files import forbid_core_files as f; f()"


def core_of(prepare: str, folder: Path) -> bool:
    """Whether a program that aborts leaves a core, where the limit allows one."""
    script = (
        f"ulimit -c unlimited && exec {sys.executable} -c '{_ABORTS.format(prepare)}'"
    )
    child = subprocess.Popen(
        ["/bin/sh", "-c", script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
    )
    _, status = os.waitpid(child.pid, 0)
    child.returncode = status
    return os.WCOREDUMP(status)


@pytest.mark.machine
def test_a_broker_leaves_no_core(tmp_path: Path) -> None:
    if not core_of("pass", tmp_path):
        pytest.skip("this machine makes no core files (ulimit -H -c, core_pattern)")
    assert not core_of(_FORBID, tmp_path)


@pytest.mark.parametrize("program", ["local", "host", "viewer"])
def test_a_broker_forbids_them_before_it_reads_a_key(program: str) -> None:
    """Each program, as it is started: with a configuration that ends it at once."""
    code = (
        "import resource, sys, broker.programs.start as start\n"
        "start.find_paths = lambda: sys.exit(\n"
        "    str(resource.getrlimit(resource.RLIMIT_CORE)[1]))\n"
        f"sys.argv = ['x']\nimport broker.programs.{program} as p\np.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.split()[-1] in {"0", "1"}, "-1 would be: without a limit"


# -- addresses -----------------------------------------------------------------------------

_READ = """
from broker.host.network.frameguard.frameguard import Addresses
print(*(f"{first.hex()}/{bits}" for first, bits in Addresses().read()))
"""


@pytest.mark.machine
def test_local_routes_without_an_address_are_this_machines_own() -> None:
    """AnyIP: 'ip route add local NETWORK' makes each of its addresses our loopback."""
    script = (
        "ip link set lo up && ip route add local 198.51.100.0/24 dev lo && "
        "ip route add local 0.0.0.0/0 dev lo table 100 && "
        f"exec {sys.executable} -c '{_READ}'"
    )
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if "unshare" in done.stderr or "not found" in done.stderr:
        pytest.skip(f"no network namespace to be had: {done.stderr.strip()}")
    assert not done.returncode, done.stderr
    own = [
        (bytes.fromhex(first), int(bits))
        for first, _, bits in (word.partition("/") for word in done.stdout.split())
    ]
    assert (IPv4Address("198.51.100.0").packed, 24) in own
    assert (bytes(4), 0) not in own, "a transparent proxy's table is none of ours"
    frames = FrameFilter(own)
    assert not frames.may_pass(packet("198.51.100.77"))
    assert frames.may_pass(packet("198.51.101.1"))
