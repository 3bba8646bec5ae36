"""A sandbox whose network is another one's tunnel (WireGuard, OpenVPN), or its proxy (also Tor).

Real machines and real boxes: ``far`` is the other end of the tunnels, at an address that
``vpn`` reaches by a lan, and has a web server beyond it.  The box ``work`` has no way
but ``vpn``.
"""

from __future__ import annotations

import shlex
import shutil
import subprocess
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from broker.core.paths import find_paths
from tests.e2e.test_switched_boxes import PORT, Boxes, _able
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.vm.images import ROUTER_IMAGE
from tests.kit.world import the_image, world

__all__ = ("_able",)

WEB, NAME = "198.51.100.7", "www.example"
ROUTER = f"""\
class = "persistent"
[launch]
kind = "microvm"
image = "{ROUTER_IMAGE.name}"
network = "lan:world"
provides_network = true
memory = "384M"
boot_deadline = 300
"""
HEAD = "set -e; export PATH=/usr/sbin:/usr/bin:/sbin:/bin; umask 077; cd; "
KEYS = "wg genkey > key; wg pubkey < key; ip -br -4 address show dev eth0"
SERVER = f"""
import socket
server = socket.create_server(("{WEB}", {PORT}))
while True:
    conn, peer = server.accept()
    with conn:
        conn.sendall(("far saw " + peer[0]).encode())
"""
FAR = """
ip address add {web}/32 dev lo
ip link add wg0 type wireguard
wg set wg0 private-key key listen-port 51820 peer {peer} allowed-ips 10.9.0.2/32
ip address add 10.9.0.1/24 dev wg0
ip link set wg0 up
dnsmasq --no-resolv --no-hosts --listen-address=10.9.0.1,10.8.0.1 --bind-dynamic --user= \
    --address=/{name}/{web} --pid-file=
(setsid python3 -c {server} </dev/null >server.log 2>&1 &)
"""
WIREGUARD = """
ip link add wg0 type wireguard
wg set wg0 private-key key peer {peer} endpoint {far}:51820 allowed-ips 0.0.0.0/0
ip address add 10.9.0.2/24 dev wg0
ip link set wg0 mtu 1420 up
ip route add default dev wg0
"""
FORWARD = """
nft -f - <<'END'
flush ruleset
table inet vpn {{
    chain forward {{
        type filter hook forward priority filter; policy drop;
        iifname eth1 oifname {tunnel} accept
        iifname {tunnel} oifname eth1 ct state established,related accept
    }}
    chain names {{
        type nat hook prerouting priority dstnat;
        iifname eth1 udp dport 53 dnat ip to {names}
    }}
    chain address {{
        type nat hook postrouting priority srcnat;
        oifname {tunnel} masquerade
    }}
}}
END
"""
OPENVPN = """
cat >{who}.crt <<'END'
{cert}END
cat >{who}.key <<'END'
{key}END
openvpn --dev tun0 --dev-type tun --proto udp --cert {who}.crt --key {who}.key \
    --peer-fingerprint {peer} --ifconfig {here} {there} --keepalive 2 20 \
    --writepid pid --daemon --log openvpn.log {more}
"""
SIX = """python3 -c '
import socket, time
for _ in range(20):
    with socket.socket(socket.AF_INET6) as sock:
        sock.settimeout(5)
        try:
            sock.connect(("far", 9))
        except (TimeoutError, socket.gaierror) as error:
            print(error)
            time.sleep(0.5)
        except OSError as error:
            print(type(error).__name__)
            break
'
"""
"""A guest whose address is not ready, or a lost packet, would have it wait for minutes."""
WAIT = """
tries=0
until grep -q "Initialization Sequence Completed" openvpn.log; do
    tries=$((tries + 1))
    [ $tries -lt 120 ] || { cat openvpn.log; exit 1; }
    sleep 1
done
"""
NAMED = """
tries=0
until ss -Hulnp | grep -q "10.8.0.1:53 "; do
    tries=$((tries + 1))
    [ $tries -lt 120 ] || { ss -ulnp; exit 1; }
    sleep 1
done
"""


def certificate(directory, who):
    """A key, a certificate and its fingerprint."""
    key, cert = directory / f"{who}.key", directory / f"{who}.crt"
    words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30"
    files = ["-keyout", str(key), "-out", str(cert), "-subj", f"/CN={who}"]
    subprocess.run(["openssl", *words.split(), *files], check=True, capture_output=True)
    asked = ["openssl", "x509", "-in", str(cert), "-noout", "-fingerprint", "-sha256"]
    said = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    return key.read_text(), cert.read_text(), said.strip().partition("=")[2]


class Machines:
    """The machines of a world, whose user has rights over their network."""

    def __init__(self, w) -> None:
        self.w = w

    async def do(self, name: str, script: str) -> str:
        code, said = await self.w.output(name, "sh", "-c", HEAD + script)
        assert code == 0, said.decode()
        return said.decode()


@pytest.fixture(scope="module")
def _tools():
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")


@pytest.mark.long
@pytest.mark.timeout(540)
@pytest.mark.usefixtures("_tools")
async def test_a_sandbox_behind_a_tunnel_reaches_what_is_behind_it(tmp_path):
    await the_image(ROUTER_IMAGE)
    assert (find_paths().images / ROUTER_IMAGE.name).exists()
    records = {"far": ROUTER, "vpn": ROUTER}
    async with world(records, image=False) as w:
        machines, boxes = Machines(w), Boxes(w)
        boxes.record("work", "through:vpn")
        far_key, _, _, at = (await machines.do("far", KEYS)).split()
        far = at.partition("/")[0]
        vpn_key, *_ = (await machines.do("vpn", KEYS)).split()
        aims = (f"{WEB}:{PORT}", f"{NAME}:{PORT}", f"-{far}:{PORT}")
        closed = tuple("-" + aim.lstrip("-") for aim in aims)
        async with boxes.box("work", *closed) as before:
            pass
        assert "ConnectionRefusedError" in await machines.do("vpn", SIX)
        server = shlex.quote(SERVER)
        fills = {"web": WEB, "name": NAME, "server": server, "peer": vpn_key}
        await machines.do("far", FAR.format(**fills))
        await machines.do("vpn", WIREGUARD.format(peer=far_key, far=far))
        await machines.do("vpn", FORWARD.format(tunnel="wg0", names="10.9.0.1"))
        async with boxes.box("work", *aims) as wireguard:
            pass
        await machines.do("vpn", "ip link delete wg0")
        async with boxes.box("work", *closed) as between:
            pass

        mine, theirs = (certificate(tmp_path, who) for who in ("vpn", "far"))
        words = {"who": "far", "here": "10.8.0.1", "there": "10.8.0.2"}
        words |= {"key": theirs[0], "cert": theirs[1], "peer": mine[2]}
        await machines.do("far", OPENVPN.format(**words, more="--tls-server --dh none"))
        words = {"who": "vpn", "here": "10.8.0.2", "there": "10.8.0.1"}
        words |= {"key": mine[0], "cert": mine[1], "peer": theirs[2]}
        more = f"--tls-client --remote {far} --route {WEB}"
        await machines.do("vpn", OPENVPN.format(**words, more=more))
        await machines.do("vpn", WAIT)
        await machines.do("far", NAMED)
        await machines.do("vpn", FORWARD.format(tunnel="tun0", names="10.8.0.1"))
        async with boxes.box("work", *aims) as openvpn:
            pass
        _, said = await w.output("vpn", "sh", "-c", "id -u; whoami")
        assert said.split()[0] == b"1000"
        for name in ("far", "vpn"):
            await w.stop(name)

    for closed_off in (before, between):
        assert not [aim for aim in closed_off.values() if "saw" in aim], closed_off
    for open_way, address in ((wireguard, "10.9.0.2"), (openvpn, "10.8.0.2")):
        assert open_way[f"{WEB}:{PORT}"] == f"far saw {address}"
        assert open_way[f"{NAME}:{PORT}"] == f"far saw {address}"
        assert "saw" not in open_way[f"{far}:{PORT}"], "past the tunnel"


PROXY = """\
Port 8888
Listen 10.0.4.1
Allow 10.0.4.0/24
Filter "{base}/out/filter"
FilterDefaultDeny Yes
FilterExtended On
"""
SITES = ("one", "two")


@pytest.fixture(scope="module")
def _proxy():
    for program in ("tinyproxy", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.usefixtures("_proxy")
async def test_a_filtering_proxy_is_the_only_way_out_of_its_clients():
    async with world(image=False) as w, AsyncExitStack() as stack:
        boxes = Boxes(w)
        out = w.base / "out"
        (out / "proxy.conf").write_text(PROXY.format(base=w.base))
        (out / "filter").write_text("^one\\.internal$\n")
        boxes.record("proxy", "lan:lab", "provides_network = true\n")
        boxes.record("work", "through:proxy")
        for name in SITES:
            boxes.record(name, "lan:lab")
            serve = ("/usr/bin/python3", "-m", "http.server", str(PORT))
            await stack.enter_async_context(started(w, name, *serve))
        words = ("/usr/bin/tinyproxy", "-d", "-c", str(out / "proxy.conf"))
        await stack.enter_async_context(started(w, "proxy", *words))

        async def code(host: str, *more: str) -> str:
            """The HTTP code of a site's page, as the client sees it; 000: none."""
            asked = f"http://{host}.internal:{PORT}/"
            words = ("curl", "-s", "-o", "/dev/null", "-m", "10", "-w", "%{http_code}")
            run = ("run", "-q", "work", "--", *words, *more, asked)
            return (await brokerctl(*run, env=w.environ)).out

        through = ("-x", "http://10.0.4.1:8888")

        async def up() -> bool:
            return await code("one", *through) == "200"

        await eventually(up, deadline=90)
        assert await code("two", *through) == "403"
        assert await code("one") == "000", "past the proxy"
        for name in ("work", "proxy", *SITES):
            await brokerctl("stop", name, env=w.environ)


RELAYS = r"""
import pathlib, re, subprocess, sys
out, base = pathlib.Path(sys.argv[1]), pathlib.Path("/tmp/tor")
said = subprocess.check_output(["ip", "-br", "-4", "address", "show", "dev", "eth0"])
address = said.decode().split()[2].partition("/")[0]
TEST = '''
TestingTorNetwork 1
AssumeReachable 1
ExitPolicyRejectPrivate 0
'''
AUTHORITY = '''
AuthoritativeDirectory 1
V3AuthoritativeDirectory 1
TestingV3AuthInitialVotingInterval 20
TestingV3AuthInitialVoteDelay 4
TestingV3AuthInitialDistDelay 4
V3AuthVotingInterval 20
V3AuthVoteDelay 4
V3AuthDistDelay 4
TestingDirAuthVoteExit *
TestingDirAuthVoteGuard *
TestingMinExitFlagThreshold 0
'''
def run(*words, typed=b""):
    done = subprocess.run(words, input=typed, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode()
texts, authorities = [], ""
for n in range(4):
    place = base / str(n)
    (place / "keys").mkdir(parents=True)
    place.chmod(0o700)
    texts.append(f'''
Nickname n{n}
Address {address}
DataDirectory {place}
ORPort {address}:{5000 + n}
DirPort {address}:{7100 + n}
SocksPort 0
ExitRelay 1
ExitPolicy accept *:*
ContactInfo a@b
Log notice file {out}/relay{n}.log
''')
    (place / "torrc").write_text(texts[n])
    found = run("tor", "-f", f"{place}/torrc", "--list-fingerprint", "--quiet")
    if n < 3:
        key = f"{place}/keys/authority_"
        words = ("--create-identity-key", "-m", "12", "-a", f"{address}:{7100 + n}")
        words += ("-i", f"{key}identity_key", "-s", f"{key}signing_key")
        words += ("-c", f"{key}certificate", "--passphrase-fd", "0")
        run("tor-gencert", *words, typed=b"secret\n")
        text = pathlib.Path(f"{key}certificate").read_text()
        v3 = re.search(r"^fingerprint (\w+)$", text, re.M)[1]
        authorities += f"DirAuthority n{n} orport={5000 + n} v3ident={v3} "
        authorities += f"{address}:{7100 + n} {''.join(found.split()[1:])}\n"
relays = []
for n, text in enumerate(texts):
    place = base / str(n)
    more = TEST + (AUTHORITY if n < 3 else "") + authorities
    (place / "torrc").write_text(text + more)
    relays.append(subprocess.Popen(["tor", "-f", f"{place}/torrc"]))
(out / "new").write_text(authorities)
(out / "new").rename(out / "authorities")
for relay in relays:
    relay.wait()
"""
"""A network of four relays on one address, three of which are its authorities."""
TORRC = """\
TestingTorNetwork 1
DataDirectory /tmp/tor
SocksPort 10.0.4.1:9050
Log notice file {base}/out/client.log
"""
WHO = f"""
import http.server
class Who(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.client_address[0].encode())
http.server.HTTPServer(("", {PORT}), Who).serve_forever()
"""


@pytest.fixture(scope="module")
def _tor():
    for program in ("tor", "tor-gencert", "curl"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest.mark.long
@pytest.mark.timeout(540)
@pytest.mark.usefixtures("_tor")
async def test_a_client_of_tor_reaches_others_by_a_circuit():
    """By name, too; the server sees the last relay, and past Tor there is nothing."""
    async with world(image=False) as w, AsyncExitStack() as stack:
        boxes = Boxes(w)
        out = w.base / "out"
        (out / "relays.py").write_text(RELAYS)
        for name in ("relays", "proxy"):
            more = "provides_network = true\n" if name == "proxy" else ""
            boxes.record(name, "lan:lab", f"open_files = 4096\n{more}")
        boxes.record("work", "through:proxy")
        boxes.record("one", "lan:lab")
        serve = ("/usr/bin/python3", "-c", WHO)
        await stack.enter_async_context(started(w, "one", *serve))
        words = ("/usr/bin/python3", str(out / "relays.py"), str(out))
        await stack.enter_async_context(started(w, "relays", *words))
        await eventually((out / "authorities").exists, deadline=200)
        authorities = (out / "authorities").read_text()
        (out / "torrc").write_text(TORRC.format(base=w.base) + authorities)
        words = ("tor", "-f", str(out / "torrc"))
        await stack.enter_async_context(started(w, "proxy", *words))

        async def page(*more: str) -> str:
            """Who asked for the page of a site, as the site sees it."""
            asked = f"http://one.internal:{PORT}/"
            words = ("run", "-q", "work", "--", "curl", "-s", "-m", "20", *more, asked)
            return (await brokerctl(*words, env=w.environ)).out

        seen = await eventually(
            lambda: page("--socks5-hostname", "10.0.4.1:9050"), deadline=240
        )
        assert seen == authorities.split()[4].partition(":")[0]
        assert "Bootstrapped 100%" in (out / "client.log").read_text()
        assert await page() == "", "past Tor"
        for name in ("work", "proxy", "relays", "one"):
            await brokerctl("stop", name, env=w.environ)


@asynccontextmanager
async def started(w, name: str, *words: str):
    """A box and its program, until this block ends."""
    async with running("run", "-q", name, "--", *words, env=w.environ) as child:
        yield child
