"""Boxes that share a network (``lan:``), and boxes whose network is another one (``through:``).

Real boxes by record, a real broker and its switches.  Each box runs the same program:
it serves on a port that says who asked, and then asks others as its arguments say.
"""

from __future__ import annotations

import json
import socket
from contextlib import asynccontextmanager
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from broker.host.network.addresses import ipv6_beside
from tests.e2e.test_box_network import own_addresses
from tests.kit.brokerctl import brokerctl, running
from tests.kit.cables import need_boxes_at_cables
from tests.kit.eventually import eventually
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, root_directory
from tests.kit.world import world

PORT = 7000
PROGRAM = f"""
import json, pathlib, socket, subprocess, sys, threading
from concurrent.futures import ThreadPoolExecutor
servers = [
    socket.create_server(("", {PORT})),
    socket.create_server(("", {PORT}), family=socket.AF_INET6),
]
def serve(server):
    while True:
        conn, peer = server.accept()
        with conn:
            conn.sendall(f"{{socket.gethostname()}} saw {{peer[0]}}".encode())
def reach(host, port, seconds):
    try:
        family = socket.AF_INET6 if host.startswith("six.") else socket.AF_INET
        host = host.removeprefix("six.")
        with socket.socket(family) as sock:
            sock.settimeout(seconds)
            sock.connect((host, port))
            return sock.recv(100).decode() or "closed"
    except OSError as error:
        return type(error).__name__
def name(host):
    try:
        return socket.gethostbyname(host)
    except OSError as error:
        return type(error).__name__
out, *aims = sys.argv[1:]
for server in servers:
    threading.Thread(target=serve, args=(server,), daemon=True).start()
said = {{"address": subprocess.check_output(["ip", "-br", "-4", "address"]).decode()}}
said["cards"] = sorted(name for _, name in socket.if_nameindex())
def ask(aim):
    host, _, port = aim.lstrip("-").partition(":")
    seconds = 1 if aim.startswith("-") else 30  # it is not reached, or is
    said[aim.lstrip("-")] = reach(host, int(port), seconds) if port else name(host)
with ThreadPoolExecutor() as pool:
    list(pool.map(ask, aims))
place = pathlib.Path(out)
place.with_suffix(".new").write_text(json.dumps(said))
place.with_suffix(".new").rename(place)
threading.Event().wait()
"""
RECORD = """\
class = "persistent"
[launch]
kind = "bwrap"
network = "{network}"
bind_read_only = ["{base}/program.py"]
bind_read_write = ["{base}/out"]
"""


@pytest.fixture(scope="module", autouse=True)
def _able():
    need_boxes_at_cables("bwrap", "ip")


class Boxes:
    """The boxes of a world."""

    def __init__(self, w) -> None:
        self.w = w
        (w.base / "out").mkdir()
        (w.base / "program.py").write_text(PROGRAM)

    def record(self, name: str, network: str, more: str = "") -> None:
        text = RECORD.format(network=network, base=self.w.base)
        self.w.write_record(name, text + more)

    @asynccontextmanager
    async def box(self, name: str, *aims: str):
        """Run a box while this block runs; gives its output."""
        out = self.w.base / "out" / name
        out.unlink(missing_ok=True)
        words = ("/usr/bin/python3", str(self.w.base / "program.py"), str(out), *aims)
        command = ("run", "-q", name, "--", *words)
        async with running(*command, env=self.w.environ) as child:
            await eventually(
                lambda: out.exists() or child.returncode is not None, deadline=90
            )
            assert out.exists(), child.returncode
            yield json.loads(out.read_text())
            answer = await brokerctl("stop", name, env=self.w.environ)
            assert answer.code == 0, answer


def address(said: dict, card: str = "eth0") -> str:
    (line,) = [one for one in said["address"].splitlines() if one.startswith(card)]
    return line.split()[2].partition("/")[0]


async def test_a_tree_of_nspawn_is_a_member_of_a_lan():
    """And has the network of a provider, or is one, as a box is."""
    skip_without_nspawn()
    async with world(image=False) as w:
        boxes = Boxes(w)
        found = [path for path in SHARED if Path(path).exists()]
        shared = ", ".join(f'"{path}"' for path in (*found, w.base / "program.py"))
        root = f'rootfs = "{root_directory(w.base)}"\n'
        for name, network, more in (
            ("tree", "lan:lab", "provides_network = true\n"),
            ("client", "through:tree", ""),
        ):
            text = RECORD.format(network=network, base=w.base).replace(
                "bwrap", "nspawn"
            )
            text = text.replace(f'"{w.base}/program.py"', shared)
            w.write_record(name, text + root + more)
        boxes.record("db", "lan:lab")
        async with (
            boxes.box("db") as db,
            boxes.box("tree", f"db:{PORT}") as tree,
            boxes.box("client", f"10.0.4.1:{PORT}", f"-{address(db)}:{PORT}") as client,
        ):
            pass
        assert tree["cards"] == ["eth0", "eth1", "lo"]
        assert tree[f"db:{PORT}"].endswith(f" saw {address(tree)}")
        assert client[f"10.0.4.1:{PORT}"].endswith(f" saw {address(client)}")
        assert "saw" not in client[f"{address(db)}:{PORT}"]


async def test_boxes_of_a_lan_reach_each_other_and_nothing_else():
    async with world(image=False) as w:
        boxes = Boxes(w)
        for name, network in (
            ("db", "lan:lab"),
            ("app", "lan:lab"),
            ("other", "lan:x"),
        ):
            boxes.record(name, network)
        with socket.create_server(("0.0.0.0", 0)) as server:
            port = server.getsockname()[1]
            mine = ("127.0.0.1", "10.0.3.1", "10.0.2.2", *own_addresses())
            here = [f"{one}:{port}" for one in mine]
            async with boxes.box("db") as db:
                there = f"{address(db)}:{PORT}"
                aims = (
                    "db",
                    "db.internal",
                    "example.org",
                    f"db:{PORT}",
                    f"six.db:{PORT}",
                    there,
                    *["-" + h for h in here],
                )
                async with boxes.box("app", *aims) as app:
                    pass
                async with boxes.box("other", "db", "-" + there) as other:
                    pass
                async with boxes.box("app", f"db:{PORT}") as again:
                    pass
        assert app["cards"] == ["eth0", "lo"]
        assert app["db"] == app["db.internal"] == address(db)
        assert app["example.org"] == "gaierror"
        assert app[f"db:{PORT}"].endswith(f" saw {address(app)}")
        six = ipv6_beside(address(app))
        assert IPv6Address(app[f"six.db:{PORT}"].split()[-1]) == IPv6Address(six)
        assert [app[one] for one in here if app[one].startswith("saw")] == []
        assert {app[one] for one in here} <= {
            "TimeoutError",
            "OSError",
            "ConnectionRefusedError",
        }
        assert other["db"] == "gaierror"
        assert other[there] in {"TimeoutError", "OSError"}
        assert address(again) == address(app), "a sandbox keeps its address"

        async def gone():
            return not [p for p in w.processes().values() if "host.network" in p]

        await eventually(gone)

        boxes.record("lost", "through:nobody")
        answer = await brokerctl("run", "-q", "lost", "--", "/bin/true", env=w.environ)
        assert answer.code != 0
        assert "is missing or cannot provide a network" in answer.err
        assert "lost.toml" in answer.err


async def test_boxes_behind_another_one_reach_it_and_not_each_other():
    async with world(image=False) as w:
        boxes = Boxes(w)
        boxes.record("proxy", "lan:lab", "provides_network = true\n")
        boxes.record("db", "lan:lab")
        boxes.record("work", "through:proxy")
        boxes.record("play", "through:proxy")
        out = f"10.0.4.1:{PORT}"
        async with boxes.box("work", "-" + out) as early:
            async with (
                boxes.box("proxy") as proxy,
                boxes.box("db", f"proxy:{PORT}") as db,
            ):
                at = f"{address(early)}:{PORT}"
                others = [f"{address(db)}:{PORT}", f"{address(proxy)}:{PORT}"]
                closed = ["-" + one for one in (at, *others, "8.8.8.8:53")]
                async with boxes.box("play", out, *closed) as play:
                    pass
            async with boxes.box("play", "-" + out) as late:
                pass
        assert early[out] in {"OSError", "TimeoutError"}, "its provider does not run"
        assert late[out] in {"OSError", "TimeoutError"}, "its provider has ended"
        assert proxy["cards"] == ["eth0", "eth1", "lo"]
        assert address(proxy, "eth1") == "10.0.4.1"
        assert play[out].endswith(f" saw {address(play)}")
        assert play[at] in {"OSError", "TimeoutError"}
        # The provider's program decides what else is reached, and this one forwards nothing.
        assert play[f"{address(db)}:{PORT}"] in {"OSError", "TimeoutError"}
        assert play["8.8.8.8:53"] in {"OSError", "TimeoutError"}
        assert db[f"proxy:{PORT}"].endswith(f" saw {address(db)}")
