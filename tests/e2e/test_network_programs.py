"""Programs of every day in a box with ``network = "rules"``: apt, dig, git, Firefox.

The internet is that of ``test_network_rules``, with a web server that has files.  This
machine has two name servers; the first one gives answers to questions that nobody
asked, and no other ones.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

from broker.core.lease import Opening
from broker.core.services import NETWORK
from broker.host.launchers.bubblewrap.arguments import Box
from broker.host.network.box_network import start_box_network
from broker.host.network.box_resolver import resolver_lines
from tests.e2e.test_network_rules import (
    EVIL,
    GOOD,
    HOSTS,
    RECORD,
    be_internet,
    internet,
    name_server,
)
from tests.kit.boxes import start_held
from tests.kit.cables import need_boxes_at_cables, played
from tests.kit.eventually import eventually
from tests.kit.rulebook import WORK, rulebook
from tests.kit.wayland.compositor import short_directory

NEEDED = ("bwrap", "passt", "ip", "openssl", "apt-get", "dpkg-deb", "dig", "git")
NEEDED += ("firefox-esr",)
RULES = """\
vitrail.Network +*.good.test work @net allow port=443 protocol=tcp
"""
PROBE = r"""
import json, os, socket, subprocess, sys, time
out, evil = sys.argv[1:]
said = {}
def run(*words, **env):
    done = subprocess.run(words, capture_output=True, text=True, errors="replace",
                          env={**os.environ, **env}, timeout=100)
    return [done.returncode, done.stdout + done.stderr]
said["dig"] = run("dig", "+short", "www.good.test")
said["dig, tcp"] = run("dig", "+short", "+tcp", "www.good.test")
said["dig, texts"] = run("dig", "+short", "long.good.test", "TXT")
said["dig, refused"] = run("dig", "www.evil.test")
said["dig, elsewhere"] = run("dig", "+time=2", "+tries=1", f"@{evil}", "www.good.test")
def clone(host):
    place = f"/tmp/{host}"
    code, text = run("git", "clone", "-q", f"https://{host}/repo.git", place, GIT_SSL_NO_VERIFY="1")
    return [code, open(f"{place}/file").read() if code == 0 else text]
said["git"], said["git, evil"] = clone("git.good.test"), clone("git.evil.test")
def apt(host, *words):
    place = f"/tmp/apt-{host}"
    for name in ("lists/partial", "cache/archives/partial", "etc/apt.conf.d"):
        os.makedirs(f"{place}/{name}", exist_ok=True)
    open(f"{place}/status", "w").close()
    with open(f"{place}/sources", "w") as file:
        file.write(f"deb [trusted=yes] https://{host}/ ./\n")
    found = {
        "Dir::State": place, "Dir::State::status": f"{place}/status",
        "Dir::Cache": f"{place}/cache", "Dir::Etc": f"{place}/etc",
        "Dir::Etc::SourceList": f"{place}/sources", "APT::Sandbox::User": "",
        "Acquire::https::Verify-Peer": "false", "Acquire::https::Verify-Host": "false",
    }
    options = [word for key, value in found.items() for word in ("-o", f"{key}={value}")]
    return run("apt-get", *options, *words)
os.chdir("/tmp")
said["apt update"] = apt("deb.good.test", "update")
said["apt download"] = apt("deb.good.test", "download", "small-example")
said["apt file"] = sorted(name for name in os.listdir() if name.endswith(".deb"))
said["apt, evil"] = apt("deb.evil.test", "update", "-o", "APT::Update::Error-Mode=any")
def browse():
    profile = "/tmp/profile"
    os.mkdir(profile)
    with open(f"{profile}/user.js", "w") as file:
        file.write('user_pref("marionette.port", 0);\n')
    words = ["firefox-esr", "--headless", "--marionette", "--profile", profile]
    log = open(f"{out}/firefox", "w")
    child = subprocess.Popen(words, stdout=log, stderr=log)
    port = f"{profile}/MarionetteActivePort"
    while not (os.path.exists(port) and open(port).read().isdecimal()):
        assert child.poll() is None, open(f"{out}/firefox").read()
        time.sleep(0.1)
    with socket.create_connection(("127.0.0.1", int(open(port).read()))) as sock:
        sock.settimeout(100)
        file = sock.makefile("rb")
        def message():
            size = b""
            while not size.endswith(b":"):
                size += file.read(1)
            return json.loads(file.read(int(size[:-1])))
        def call(name, **parameters):
            text = json.dumps([0, 1, name, parameters]).encode()
            sock.sendall(b"%d:%b" % (len(text), text))
            _type, _number, error, result = message()
            return json.dumps(error) if error else result
        message()
        call("WebDriver:NewSession", acceptInsecureCerts=True)
        def page(address):
            gone = call("WebDriver:Navigate", url=address)
            script = "return document.body.innerText"
            read = call("WebDriver:ExecuteScript", script=script, args=[])
            return gone if isinstance(gone, str) else read["value"]
        said["firefox"] = page("https://www.good.test/")
        said["firefox, evil"] = page("https://www.evil.test/")
        said["firefox, by address"] = page(f"https://{evil}/")
        child.terminate()
browse()
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
    return played("tests.e2e.test_network_programs", deadline=300)


def test_a_silent_first_name_server_is_left_for_the_second(results):
    """And its answers about other names, or by another number, leads nowhere."""
    assert "www.good.test" in results["lied about"]
    assert "www.good.test" in results["asked"]
    assert results["inside"]["dig"] == [0, f"{GOOD}\n"]


def test_dig_asks_our_name_server_and_no_other(results):
    inside = results["inside"]
    assert inside["dig, tcp"] == [0, f"{GOOD}\n"]
    code, text = inside["dig, texts"]
    assert (code, text.count('"') // 2) == (0, 12), text
    assert "status: REFUSED" in inside["dig, refused"][1]
    assert inside["dig, elsewhere"][0] == 9  # no server answered


def test_git_clones_from_a_named_host(results):
    assert results["inside"]["git"] == [0, "content\n"]
    code, text = results["inside"]["git, evil"]
    assert code == 128
    assert "Could not resolve host" in text


def test_apt_has_packages_of_a_named_host(results):
    inside = results["inside"]
    assert inside["apt update"][0] == 0, inside["apt update"][1]
    assert inside["apt download"][0] == 0, inside["apt download"][1]
    assert inside["apt file"] == ["small-example_1.0_all.deb"]
    code, text = inside["apt, evil"]
    assert code == 100
    assert "resolving 'deb.evil.test'" in text


def test_a_browser_shows_a_named_host(results):
    """Its hello has several segments; its connection to its maker is refused."""
    inside = results["inside"]
    assert inside["firefox"] == f"hello from {GOOD}"
    assert "dnsNotFound" in inside["firefox, evil"]
    assert "about:neterror" in inside["firefox, by address"]
    others = [name for name in results["asked"] if not name.endswith(".good.test")]
    assert others == []


# -- inside the namespaces -----------------------------------------------------------


def make_site(place: Path) -> None:
    """The files of a web server: a page, a repository and packages."""
    quiet = partial(subprocess.run, check=True, capture_output=True)
    (place / "index.html").write_text(f"hello from {GOOD}")
    work = place / "work"
    quiet(["git", "init", "-q", str(work)])
    (work / "file").write_text("content\n")
    git = ["git", "-C", str(work), "-c", "user.name=a", "-c", "user.email=a@b"]
    quiet([*git, "add", "file"])
    quiet([*git, "commit", "-q", "-m", "first"])
    bare = place / "repo.git"
    quiet(["git", "clone", "-q", "--bare", str(work), str(bare)])
    quiet(["git", "-C", str(bare), "update-server-info"])
    control = place / "pkg/DEBIAN/control"
    control.parent.mkdir(parents=True)
    text = (
        "Package: small-example\nVersion: 1.0\nArchitecture: all\n"
        "Maintainer: a <a@b>\nDescription: a package\n"
    )
    control.write_text(text)
    file = place / "small-example_1.0_all.deb"
    quiet(["dpkg-deb", "--root-owner-group", "-b", str(place / "pkg"), str(file)])
    size = file.stat().st_size
    digest = quiet(["sha256sum", str(file)]).stdout.split()[0].decode()
    entry = f"Filename: ./{file.name}\nSize: {size}\nSHA256: {digest}\n"
    (place / "Packages").write_text(text + entry)


async def serve_files(site: Path, context, _address: str, stream) -> None:
    tls = trio.SSLStream(stream, context, server_side=True, https_compatible=True)
    try:
        asked = b""
        while b"\r\n\r\n" not in asked:
            more = await tls.receive_some(4000)
            if not more:
                return
            asked += more
        path = asked.split()[1].decode().partition("?")[0].lstrip("/")
        file = site / (path or "index.html")
        found = file.is_file()
        data = file.read_bytes() if found else b"nothing here"
        code = "200 OK" if found else "404 Not Found"
        kind = "text/html" if file.suffix == ".html" else "application/octet-stream"
        head = f"HTTP/1.0 {code}\r\nContent-Type: {kind}\r\nContent-Length: {len(data)}"
        await tls.send_all(head.encode() + b"\r\n\r\n" + data)
        await tls.aclose()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.aclose_forcefully(stream)


async def lying_server(lied, task_status):
    """A name server on 127.0.0.52 that answers other questions."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        await sock.bind(("127.0.0.52", 53))
        task_status.started()
        other = b"\3www\4evil\4test\0\0\1\0\1"
        record = (
            b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(EVIL)
        )
        head = b"\x81\x80" + struct.pack(">4H", 1, 1, 0, 0)
        while True:
            query, sender = await sock.recvfrom(2000)
            end = query.index(b"\0", 12) + 5
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode())
                at += 1 + query[at]
            lied.append(".".join(labels))
            number = bytes([query[0], query[1] ^ 1])
            await sock.sendto(number + head + query[12:end] + record, sender)
            await sock.sendto(query[:2] + head + other + record, sender)


async def be_this_machine():
    asked: list[str] = []
    lied: list[str] = []
    HOSTS.update({f"{name}.good.test": [GOOD] for name in ("git", "deb")})
    with short_directory() as place:
        conf, site, out = place / "resolv.conf", place / "site", place / "out"
        conf.write_text("nameserver 127.0.0.52\nnameserver 127.0.0.53\n")
        probe = place / "probe.py"
        probe.write_text(PROBE)
        for folder in (site, out, place / "s"):
            folder.mkdir()
        make_site(site)
        words = ("tests.e2e.test_network_programs", "other", str(site))
        async with internet(*words), trio.open_nursery() as nursery:
            await nursery.start(name_server, asked)
            await nursery.start(lying_server, lied)
            async with rulebook(RULES, work=RECORD) as book:
                inside = await ask_box(place, conf, probe, book)
            nursery.cancel_scope.cancel()
    return {"inside": inside, "asked": asked, "lied about": lied}


async def ask_box(place, conf, probe, book):
    """Run the probe in a box, and return its output."""
    out = place / "out"
    (out / "error").touch()
    box = Box(
        (
            "sh",
            "-c",
            f'exec python3 "$@" 2>{out}/error',
            "sh",
            str(probe),
            str(out),
            EVIL,
        ),
        place / "s",
        files=(probe,),
        writable=(out,),
        resolver=resolver_lines(network="rules"),
        open_files=4096,
    )
    return await answer_of_probe(box, out, conf, book)


async def answer_of_probe(box, out, conf, book):
    """Run a box with a network by rule until its probe is done; return what it has found."""
    held = await start_held(box)
    pidfd = os.pidfd_open(held.leader)
    flows = book.flows()
    opening = Opening(WORK, NETWORK, 1, "the test")
    async with trio.open_nursery() as nursery:
        try:
            network = await start_box_network(pidfd, conf, decided=True)
            await nursery.start(partial(flows.carry, opening, network.flows))
            held.release()
            done = out / "done"
            await eventually(
                lambda: done.exists() or (out / "error").read_text(), deadline=250
            )
            assert done.exists(), (out / "error").read_text()
            return json.loads((out / "said").read_text())
        finally:
            await held.end()
            os.close(pidfd)
            await network.end()
            nursery.cancel_scope.cancel()


if __name__ == "__main__":
    if "other" in sys.argv:
        trio.run(be_internet, partial(serve_files, Path(sys.argv[-1])))
    else:
        print(json.dumps(trio.run(be_this_machine)))
    sys.exit(0)
