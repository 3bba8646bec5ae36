"""``vitrail.Call`` to and from real boxes, by ``vitrail-services`` and ``vitrail-call``."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from broker.helpers.process.spawn import run_tool
from tests.integration.test_ports import forwarded
from tests.kit.brokerctl import brokerctl, running
from tests.kit.eventually import eventually
from tests.kit.needs import PID_NAMESPACES, requires
from tests.kit.plain_guests import plain
from tests.kit.records import shown_record
from tests.kit.world import world

pytestmark = [PID_NAMESPACES, requires("waypipe")]
RULES = """\
vitrail.Call +as-user  @anyvm  vault  allow user=root
vitrail.Call *         @anyvm  vault  allow
vitrail.Call +hello    box     work   allow
vitrail.Tcp  *         @adminvm vault allow
vitrail.Tcp  *         box     vault  allow
"""
STARTS = """\
vitrail.Call +off  box  late   allow autostart=no
vitrail.Call *     box  late   allow
vitrail.Call *     box  window allow
vitrail.Call *     box  many   allow
"""
SECONDS = 600_000_000 + os.getpid()
DEAF = f"sleep\0{SECONDS}\0"
VAULT = """\
class = "persistent"
display = "allow"
[services.echo]
command = ["cat"]
[services.who]
command = ["sh", "-c", 'echo "$QREXEC_REMOTE_DOMAIN $0"; id -u; exit 7']
[services.deaf]
command = ["sleep", "{seconds}"]
[launch]
kind = "bwrap"
command = ["vitrail-services"]
"""
BOX = shown_record('kind = "bwrap"')


def deaf_ones():
    """Processes of the service that reads nothing."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found += [entry] if entry.read_bytes() == DEAF.encode() else []
    return found


@asynccontextmanager
async def sandboxes():
    async with world(image=False, start=False) as w:
        w.write_rules(RULES)
        w.write_record("vault", VAULT.format(seconds=SECONDS))
        w.write_record("box", BOX)
        await w.start()
        yield w


@asynccontextmanager
async def served(w):
    async with running("run", "-q", "vault", env=w.environ):
        await w.wait_event("stream.opened", sandbox="vault", service="vitrail.Call")
        yield


async def in_box(w, script):
    """Run a line of shell in a box that calls; returns code and output."""
    told = await brokerctl("run", "-q", "box", "--", "sh", "-c", script, env=w.environ)
    return told.code, told.out


async def test_a_box_calls_a_box():
    async with sandboxes() as w, served(w):
        code, said = await in_box(
            w, "head -c 3000000 /dev/zero | vitrail-call -t vault echo | wc -c"
        )
        assert (code, said) == (0, "3000000\n")
        code, said = await in_box(w, "vitrail-call -t vault who word </dev/null")
        assert (code, said.splitlines()[0]) == (7, "box word")
        # A name of Qubes' programs for the same.
        code, said = await in_box(w, "echo x | qrexec-client-vm vault echo")
        assert (code, said) == (0, "x\n")
        # A box has one user; it has no service but those of its record.
        assert (await in_box(w, "vitrail-call -t vault as-user </dev/null"))[0] == 125
        assert (await in_box(w, "vitrail-call -t vault none </dev/null"))[0] == 127


LATE = VAULT.replace('"vitrail-services"', '"sh", "-c", "exec vitrail-services"')


async def test_a_call_starts_a_box():
    """Where the rule says so, and a program that serves calls: no other."""
    async with sandboxes() as w:
        w.write_record("late", LATE.format(seconds=SECONDS))
        w.write_record("window", BOX + 'command = ["foot"]\n')
        w.write_record(
            "many", LATE.format(seconds=SECONDS).replace("persistent", "disposable")
        )
        (w.paths.config[0] / "policy.d/20-late.policy").write_text(STARTS)
        code, said = await in_box(w, "vitrail-call -t late off 2>&1 </dev/null")
        assert (code, "is not running" in said) == (125, True), said
        for name in ("window", "many"):
            code, said = await in_box(w, f"vitrail-call -t {name} echo 2>&1 </dev/null")
            assert (code, "rejected the request" in said) == (125, True), said
            refused = await w.only_event("lease.refused", sandbox=name)
            assert "a call cannot start" in refused["reason"]
        assert not w.events("lease.begin", record="window")
        # Two at once start it once, and it runs on.
        both = "vitrail-call -t late who </dev/null & vitrail-call -t late who </dev/null; wait"
        code, said = await in_box(w, both)
        assert said.count("box sh\n") == 2, said
        code, said = await in_box(w, "echo again | vitrail-call -t late echo")
        assert (code, said) == (0, "again\n")
        assert len(w.events("lease.begin", record="late")) == 1
        told = await brokerctl("stop", "late", env=w.environ)
        assert told.code == 0, told
        # It is started again for the next one.
        code, said = await in_box(w, "echo more | vitrail-call -t late echo")
        assert (code, said) == (0, "starting late\nmore\n")


async def test_one_program_of_a_box_serves_its_calls():
    async with sandboxes() as w:
        # A box that serves calls beside its own program, and then asks for it twice.
        script = "vitrail-services; vitrail-call -t vault who </dev/null"
        told = await brokerctl(
            *("run", "-q", "vault", "--", "vitrail-services", "sh", "-c", script),
            env=w.environ,
        )
        assert "already serves calls" in told.out + told.err, told


async def test_machines_and_boxes_call_each_other():
    async with sandboxes() as w, served(w), plain(w, "work") as guests:
        work = guests["work"]
        code, said = await work.script("echo hello | vitrail-call -t vault echo")
        assert (code, said) == (0, "hello\n")
        own = work.home / ".config/vitrail-services"
        own.mkdir(parents=True)
        (own / "hello").write_text("#!/bin/sh\necho hello $QREXEC_REMOTE_DOMAIN\n")
        (own / "hello").chmod(0o755)
        code, said = await in_box(w, "vitrail-call -t work hello </dev/null")
        assert (code, said) == (0, "hello box\n")
        # A machine's agent starts its services: no separate program says it does.
        code, said = await work.script("vitrail-files vitrail-services")
        assert "its guest agent does" in said, said


async def test_a_port_of_a_box_is_reached_by_the_user_and_by_a_box():
    async with sandboxes() as w:
        port = 20000 + os.getpid() % 10000
        server = f"""
        mkdir -p /tmp/www && echo hello > /tmp/www/index.html && cd /tmp/www
        exec vitrail-services python3 -m http.server --bind 127.0.0.1 {port}
        """
        async with running(
            *("run", "-q", "vault", "--", "sh", "-c", server), env=w.environ
        ):
            await w.wait_event("stream.opened", sandbox="vault", service="vitrail.Call")
            async with forwarded(w, port) as ((address, number), _):
                url = f"http://{address}:{number}/"

                async def answers():
                    return await run_tool(["curl", "-s", url]) == b"hello\n"

                await eventually(answers)
            script = f"""
            vitrail-connect --target vault {port} 8123 2>/dev/null &
            until curl -s http://127.0.0.1:8123/; do sleep 0.2; done
            """
            assert await in_box(w, script) == (0, "hello\n")


async def test_a_service_in_a_box_ends_with_its_caller():
    async with sandboxes() as w, served(w):
        # It reads nothing, so the end of the stream is after bytes.
        words = ("sh", "-c", "yes | vitrail-call -t vault deaf")
        async with running("run", "-q", "box", "--", *words, env=w.environ):
            await eventually(deaf_ones)
        await eventually(lambda: not deaf_ones())
