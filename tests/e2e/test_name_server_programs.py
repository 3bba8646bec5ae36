"""Real name servers behind a box with ``network = "rules"``: BIND, unbound and dnsmasq.

One of them is this machine's.  BIND refuses EDNS as its flag ``-T`` (for its own tests)
has it, and all cut what is longer than 512 bytes.
"""

from __future__ import annotations

import json
import shutil
import sys

import pytest
import trio

from broker.helpers.process.spawn import DEVNULL, spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.box_resolver import resolver_lines
from tests.e2e.test_network_programs import answer_of_probe
from tests.e2e.test_network_rules import GOOD, RECORD, internet, ip
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.rulebook import rulebook
from tests.kit.wayland.compositor import short_directory

NEEDED = ("bwrap", "passt", "ip", "openssl", "dig")
RULES = """\
vitrail.Network +*.good.test work @net allow port=443 protocol=tcp,udp
"""
MANY = [f"93.184.1.{number}" for number in range(1, 96)]
ZONE = f"""\
$TTL 300
@ SOA ns.good.test. me.good.test. 1 3600 600 86400 60
@ NS ns.good.test.
ns A {GOOD}
www A {GOOD}
alias CNAME www
text TXT {" ".join(f'"{"x" * 200}"' for _ in range(4))}
""" + "".join(f"many A {address}\n" for address in MANY)
NAMED = """\
options {{ directory "{folder}"; listen-on {{ 127.0.0.53; }}; listen-on-v6 {{ none; }};
  pid-file none; session-keyfile none; recursion no;
  max-udp-size 512; dnssec-validation no; }};
controls {{ }};
zone "good.test" {{ type primary; file "{folder}/zone"; }};
"""
UNBOUND = """\
server:
  interface: 127.0.0.53
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  do-daemonize: no
  module-config: "iterator"
  max-udp-size: 512
  access-control: 0.0.0.0/0 allow
  local-zone: "good.test." static
{records}
"""
SERVERS = {
    "bind, no EDNS": ("named", "-g", "-T", "ednsformerr", "-c", "{folder}/named.conf"),
    "bind, EDNS not known": (
        *("named", "-g", "-T", "ednsnotimp"),
        *("-c", "{folder}/named.conf"),
    ),
    "bind, 512 bytes": ("named", "-g", "-c", "{folder}/named.conf"),
    "unbound": ("unbound", "-d", "-c", "{folder}/unbound.conf"),
    "dnsmasq": (
        *("dnsmasq", "-d", "-C", "{folder}/dnsmasq.conf"),
        *("--pid-file", "--listen-address=127.0.0.53", "--bind-interfaces"),
        *("--edns-packet-max=512", "--no-resolv", "--no-hosts"),
    ),
}
PROBE = r"""
import json, socket, subprocess, sys
out, = sys.argv[1:]
results = {}
def dig(*argv):
    argv = ("dig", "+tries=1", "+time=8", *argv)
    return subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout
def resolve(name):
    try:
        outputs = socket.getaddrinfo(name, 443, socket.AF_INET, socket.SOCK_STREAM)
    except OSError as error:
        return str(error)
    return sorted(address for *_, (address, _) in outputs)
results["one"] = dig("+short", "www.good.test")
results["one, libc"] = resolve("www.good.test")
results["many"] = dig("+short", "many.good.test")
results["many, tcp"] = dig("+short", "+tcp", "many.good.test")
results["many, libc"] = resolve("many.good.test")
results["many, udp"] = dig("+ignore", "many.good.test")
results["text"] = dig("+short", "text.good.test", "TXT")
results["alias"] = dig("alias.good.test")
results["none"] = dig("absent.good.test")
results["no address"] = dig("text.good.test")
results["edns"] = dig("+edns=100", "+noednsnegotiation", "www.good.test")
results["class"] = dig("version.bind", "CH", "TXT")
results["opcode"] = dig("+opcode=status", "www.good.test")
results["header"] = dig("+header-only", "www.good.test")
open(f"{out}/said", "w").write(json.dumps(results))
open(f"{out}/done", "w").close()
"""


@pytest.fixture(scope="module", params=SERVERS)
def results(request):
    program = SERVERS[request.param][0]
    if not shutil.which(program, path="/usr/sbin:/usr/bin"):
        pytest.skip(f"{program} is not installed")
    need_boxes_at_cables(*NEEDED)
    return request.param, played(
        "tests.e2e.test_name_server_programs", request.param, deadline=120
    )


def test_addresses_from_a_real_name_server(results):
    """Also if it answers EDNS by an error, and what it cuts is asked again by TCP."""
    _, outputs = results
    assert outputs["one"] == f"{GOOD}\n"
    assert outputs["one, libc"] == [GOOD]
    for key in ("many", "many, tcp"):
        assert sorted(outputs[key].split()) == sorted(MANY)
    assert outputs["many, libc"] == sorted(MANY)
    assert "flags: qr tc" in outputs["many, udp"]
    assert outputs["text"].count('"') == 8


def test_answers_as_a_name_server_gives_them(results):
    name, outputs = results
    if name != "unbound":  # its local zones follow no alias
        assert "alias.good.test.\t" in outputs["alias"]
        assert "CNAME\twww.good.test." in outputs["alias"]
        assert f"A\t{GOOD}" in outputs["alias"]
    if name != "dnsmasq":  # its own names have no SOA
        for key, status in (("none", "NXDOMAIN"), ("no address", "NOERROR")):
            assert f"status: {status}" in outputs[key]
            assert "SOA\tns.good.test." in outputs[key]
    for key, status in (
        ("edns", "BADVERS"),
        ("class", "REFUSED"),
        ("opcode", "NOTIMP"),
        ("header", "FORMERR"),
    ):
        assert f"status: {status}" in outputs[key]


# -- inside the namespaces -----------------------------------------------------------


async def be_this_machine(server: str):
    with short_directory() as folder:
        conf, out, probe = folder / "resolv.conf", folder / "out", folder / "probe.py"
        conf.write_text("nameserver 127.0.0.53\n")
        probe.write_text(PROBE)
        for path in (out, folder / "s"):
            path.mkdir()
        (out / "error").touch()
        _configure(folder)
        box = Box(
            (
                "sh",
                "-c",
                f'exec python3 "$@" 2>{out}/error',
                "sh",
                str(probe),
                str(out),
            ),
            folder / "s",
            files=(probe,),
            writable=(out,),
            resolver=resolver_lines(network="rules"),
        )
        async with internet():
            argv = [part.format(folder=folder) for part in SERVERS[server]]
            # named(8) listens at addresses of interfaces only.
            await ip("address", "add", "127.0.0.53/32", "dev", "lo")
            program = shutil.which(argv[0], path="/usr/sbin:/usr/bin")
            child = spawn([program, *argv[1:]], stdout=DEVNULL, stderr=None)
            try:
                await eventually(_answers, deadline=60)
                async with rulebook(RULES, work=RECORD) as book:
                    return await answer_of_probe(box, out, conf, book)
            finally:
                await child.stop()


def _configure(folder):
    """Write the zone and the settings of each name server."""
    (folder / "zone").write_text(ZONE)
    (folder / "named.conf").write_text(NAMED.format(folder=folder))
    lines = [line for line in ZONE.splitlines()[1:] if not line.startswith("@ NS")]
    records = []
    for line in lines:
        host, value = line.split(" ", 1)
        name = "good.test." if host == "@" else f"{host}.good.test."
        value = f"{value}.good.test." if value.startswith("CNAME") else value
        records.append(f"  local-data: '{name} {value}'")
    text = UNBOUND.format(folder=folder, records="\n".join(records))
    (folder / "unbound.conf").write_text(text)
    strings = ",".join("x" * 200 for _ in range(4))
    options = [
        "local=/good.test/",
        f"host-record=www.good.test,{GOOD}",
        "cname=alias.good.test,www.good.test",
        f"txt-record=text.good.test,{strings}",
        *(f"host-record=many.good.test,{address}" for address in MANY),
    ]
    (folder / "dnsmasq.conf").write_text("\n".join(options) + "\n")


async def _answers():
    try:
        stream = await trio.open_tcp_stream("127.0.0.53", 53)
    except OSError:
        return False
    await stream.aclose()
    return True


if __name__ == "__main__":
    print(json.dumps(trio.run(be_this_machine, sys.argv[-1])))
    sys.exit(0)
