"""Names of a box with ``network = "rules"``, as programs ask for them, and HTTP/3.

The internet is that of ``test_network_rules``, with aioquic's server of HTTP/3.  This
machine's name server is one of dnspython, which is old, cuts answers and has odd names,
as the question's name says.
"""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from functools import partial
from pathlib import Path

import aioquic
import pytest
import trio
from aioquic.asyncio import serve
from dns import flags, rcode, rdatatype, rrset
from dns.message import from_wire, make_response

from broker.helpers.process.popen import our_program
from broker.helpers.process.spawn import spawn
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.box_resolver import resolver_lines
from tests.broker.host.network.test_dns_answers import ANSWERS, LONG
from tests.e2e.test_network_programs import answer_of_probe
from tests.e2e.test_network_rules import GOOD, RECORD, SLOW, be_internet, internet
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.quic import PageServer, configured
from tests.kit.rulebook import rulebook
from tests.kit.wayland.compositor import short_directory

NEEDED = ("bwrap", "passt", "ip", "openssl", "dig", "curl")
RULES = """\
vitrail.Network +*.good.test work @net allow port=443 protocol=tcp,udp
"""
RATE = 50_000
LIMITS = f"""\
[network]
receive_rate = {RATE}
"""
KINDS = sorted(ANSWERS)
CLIENT = """
import asyncio, socket, ssl, sys
from aioquic.asyncio import QuicConnectionProtocol, connect
from aioquic.h3.connection import H3_ALPN, H3Connection
from aioquic.h3.events import DataReceived, HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
name, address, seconds = sys.argv[1:]
class Client(QuicConnectionProtocol):
    http = None
    def quic_event_received(self, event):
        self.http = self.http or H3Connection(self._quic)
        for one in self.http.handle_event(event):
            if isinstance(one, DataReceived):
                self.data += one.data
                if one.stream_ended:
                    self.done.set_result(self.data.decode())
async def main():
    made = QuicConfiguration(alpn_protocols=H3_ALPN, verify_mode=ssl.CERT_NONE)
    made.server_name = name
    if name.endswith("good.test"):
        assert socket.gethostbyname(name) == address
    async with connect(address, 443, configuration=made, create_protocol=Client) as one:
        one.data = b""
        one.done = asyncio.get_running_loop().create_future()
        stream = one._quic.get_next_available_stream_id()
        head = {":method": "GET", ":scheme": "https", ":authority": name, ":path": "/"}
        head = [(key.encode(), value.encode()) for key, value in head.items()]
        one.http.send_headers(stream, head, end_stream=True)
        one.transmit()
        print(await one.done)
asyncio.run(asyncio.wait_for(main(), int(seconds)))
"""
PROBE = r"""
import json, socket, subprocess, sys, time
out, kinds, library, client, address = sys.argv[1:]
said = {}
def run(*words):
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=100)
    return [done.returncode, done.stdout + done.stderr]
def dig(*words):
    return run("dig", "+tries=1", "+time=5", *words)
def tried(what, *words):
    try:
        return what(*words)
    except OSError as error:
        return type(error).__name__
said["kinds"] = {kind: dig("+short", "types.good.test", kind) for kind in kinds.split()}
said["https"] = dig("types.good.test", "HTTPS")
said["capitals"] = dig("WWW.Good.TEST", "TXT")
said["old"] = dig("+short", "old.good.test")
said["old, libc"] = tried(socket.gethostbyname, "old.good.test")
said["odd"] = dig("+short", "odd.good.test")
said["odd, libc"] = tried(socket.gethostbyname, "odd.good.test")
said["cut, udp"] = dig("+ignore", "cut.good.test")
said["cut"] = dig("cut.good.test")
said["cut text"] = dig("+short", "cut.good.test", "TXT")
said["cut, libc"] = tried(socket.gethostbyname, "cut.good.test")
said["long"] = dig("+short", "long.good.test", "TXT")
said["long, no edns"] = dig("+noedns", "+ignore", "long.good.test", "TXT")
said["curl"] = run("curl", "-sk", "--max-time", "9", "https://www.good.test/")
said["http at 443"] = run("curl", "-sS", "--max-time", "9", "http://www.good.test:443/")
def http3(name, seconds):
    words = ("python3", client, name, address, seconds)
    return run("env", f"PYTHONPATH={library}", *words)
said["h3"], said["h3, evil"] = http3("h3.good.test", "60"), http3("www.evil.test", "3")
name = b"\4full\4good\4test\0\0\x10\0\1"
query = b"\0\7\1\0\0\1\0\0\0\0\0\1" + name + b"\0\0\x29\x10\0\0\0\0\0\0\0"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.connect(("10.0.2.3", 53))
    sock.settimeout(0.2)
    began, came = time.monotonic(), 0
    while (took := time.monotonic() - began) < 6:
        sock.send(query)
        try:
            came += len(sock.recv(5000))
        except TimeoutError:
            pass
        time.sleep(0.021)
said["rate"] = [came, took]
open(f"{out}/said", "w").write(json.dumps(said))
open(f"{out}/done", "w").close()
time.sleep(1000)
"""


@pytest.fixture(scope="module", autouse=True)
def _able():
    """Skip where boxes with a network cannot be, or a program is missing."""
    need_boxes_at_cables(*NEEDED)


@pytest.fixture(scope="module")
def results():
    return played("tests.e2e.test_network_names", deadline=300)


@pytest.mark.parametrize("kind", KINDS)
def test_dig_has_the_records_of_a_type(results, kind):
    code, text = results["kinds"][kind]
    assert code == 0
    wanted, found = (
        rrset.from_text("x.", 60, "IN", kind, one) for one in (ANSWERS[kind], text)
    )
    assert found == wanted


def test_there_is_no_key_for_an_encrypted_hello(results):
    assert "ANSWER: 0" in results["https"][1]
    assert "status: NOERROR" in results["https"][1]


def test_a_question_comes_back_as_it_was_written(results):
    code, text = results["capitals"]
    assert code == 0
    assert ";WWW.Good.TEST.\t" in text
    assert "mismatch" not in text


@pytest.mark.parametrize("name", ["old", "odd"])
def test_an_old_server_and_an_odd_record_hide_no_address(results, name):
    assert results[name] == [0, f"{GOOD}\n"]
    assert results[f"{name}, libc"] == GOOD
    if name == "old":
        assert [True, False] in [
            results["asked"][at : at + 2] for at in range(len(results["asked"]))
        ]


def test_an_answer_that_is_cut_is_asked_for_by_tcp(results):
    """Of this machine's name server: the program gets it by UDP."""
    for said in ("cut, udp", "cut"):
        text = results[said][1]
        assert "status: NOERROR" in text
        assert f"\t{GOOD}\n" in text
        assert "(UDP)" in text
    assert results["cut, libc"] == GOOD
    code, text = results["cut text"]
    assert (code, text.count('"') // 2) == (0, 12), text


def test_long_answers_come_by_tcp(results):
    code, text = results["long"]
    assert (code, text.count('"') // 2) == (0, 12), text
    assert "flags: qr tc" in results["long, no edns"][1]


def test_names_do_not_exceed_the_rate(results):
    came, took = results["rate"]
    print(came, took)
    assert RATE * took / 4 < came < RATE * (took + 1) + 20_000


def test_a_page_comes_by_http_3(results):
    """And not by the name of another server at its address."""
    assert results["h3"] == [0, "hello to h3.good.test\n"]
    assert results["h3, evil"][0] == 1


def test_https_by_tcp_has_its_page_and_http_at_its_port_is_refused(results):
    assert results["curl"] == [0, f"hello from {GOOD}"]
    code, text = results["http at 443"]
    assert code == 56, text  # reset
    assert "reset" in text


# -- inside the namespaces -----------------------------------------------------------


def answer_of(query, *, by_tcp: bool):
    """The answer of this machine's name server."""
    (asked,) = query.question
    name, kind = asked.name.to_text().lower(), asked.rdtype.name
    made = make_response(query)
    host = name.partition(".")[0]

    def has(kind, *values):
        made.answer.append(rrset.from_text(asked.name, 60, "IN", kind, *values))

    if host == "old" and query.edns >= 0:
        made.set_rcode(rcode.FORMERR)
        made.use_edns(-1)
        made.question.clear()
    elif host == "cut" and not by_tcp:
        made.flags |= flags.TC
    elif host == "types" and kind in ANSWERS:
        has(kind, ANSWERS[kind])
    elif kind == "TXT" and host in {"long", "full", "cut"}:
        has(
            *(
                LONG
                if host != "full"
                else ["TXT", " ".join(['"' + "x" * 250 + '"'] * 5)]
            )
        )
    elif asked.rdtype == rdatatype.A:
        has("A", SLOW if host == "h3" else GOOD)
        if host == "odd":
            odd = rrset.from_text("w\\255w.test.", 60, "IN", "A", SLOW)
            made.answer.insert(0, odd)
    return made.to_wire(max_size=65535)


async def name_server(asked, task_status):
    """A name server on 127.0.0.53: UDP."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.53", 53))
        task_status.started()
        while True:
            data, sender = await sock.recvfrom(2000)
            query = from_wire(data)
            if query.question[0].name.to_text() == "old.good.test.":
                asked.append(query.edns >= 0)
            await sock.sendto(answer_of(query, by_tcp=False), sender)


async def stream_server(task_status):
    """The same name server: TCP."""

    async def serve_one(stream):
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2]):
            data += await stream.receive_some(2000)
        answer = answer_of(from_wire(data[2:]), by_tcp=True)
        made = len(answer).to_bytes(2) + answer
        for at in range(0, len(made), 700):
            await stream.send_all(made[at : at + 700])

    serve_all = partial(trio.serve_tcp, serve_one, 53, host="127.0.0.53")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_all)
        task_status.started()


async def serve_http3(place: str):
    made = configured(is_client=False)
    await serve(SLOW, 443, configuration=made, create_protocol=PageServer)
    Path(place, "serves").touch()
    await asyncio.Event().wait()


async def be_internet_with_http3(place: str):
    async def has_address():
        with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                await sock.bind((SLOW, 0))
            except OSError:
                return False
        return True

    async with trio.open_nursery() as nursery:
        nursery.start_soon(be_internet)
        await eventually(has_address, deadline=60)
        words = ("tests.e2e.test_network_names", "http3", place)
        child = spawn(our_program(*words), stderr=None)
        try:
            await trio.sleep_forever()
        finally:
            await child.stop()


async def be_this_machine():
    asked: list[bool] = []
    with short_directory() as place:
        conf, out = place / "resolv.conf", place / "out"
        conf.write_text("nameserver 127.0.0.53\n")
        probe = place / "probe.py"
        probe.write_text(PROBE)
        for folder in (out, place / "s"):
            folder.mkdir()
        words = ("tests.e2e.test_network_names", "other", str(place))
        async with internet(*words), trio.open_nursery() as nursery:
            await nursery.start(name_server, asked)
            await nursery.start(stream_server)
            await eventually((place / "serves").exists, deadline=60)
            async with rulebook(RULES, work=RECORD + LIMITS) as book:
                inside = await ask_box(place, conf, probe, book)
            nursery.cancel_scope.cancel()
    return {**inside, "asked": asked}


async def ask_box(place, conf, probe, book):
    """Run the probe in a box, and return its output."""
    out = place / "out"
    (out / "error").touch()
    client = place / "client.py"
    client.write_text(CLIENT)
    library = Path(aioquic.__file__).resolve().parents[1]
    words = (str(probe), str(out), " ".join(KINDS), str(library), str(client), SLOW)
    box = Box(
        ("sh", "-c", f'exec python3 "$@" 2>{out}/error', "sh", *words),
        place / "s",
        files=(probe, client, library),
        writable=(out,),
        resolver=resolver_lines(network="rules"),
    )
    return await answer_of_probe(box, out, conf, book)


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(be_internet_with_http3, sys.argv[-1])
    elif "http3" in sys.argv:
        asyncio.run(serve_http3(sys.argv[-1]))
    else:
        print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
