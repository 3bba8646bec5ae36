"""Services that a record names, and those of the user's own desktop in their jails."""

from __future__ import annotations

from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.kit.brokerctl import brokerctl
from tests.kit.eventually import eventually
from tests.kit.needs import requires
from tests.kit.plain_guests import plain
from tests.kit.world import world

pytestmark = requires("waypipe", "bwrap")
RULES = """\
vitrail.Call +as-user work vault     allow user=root
vitrail.Call *        work vault     allow
vitrail.Call +as-user work @adminvm  allow user=root
vitrail.Call *        work @adminvm  allow
"""
SERVICES = """\
[services.where]
command = ["/bin/sh", "-c", 'pwd; echo "$0"']
working_directory = "/usr"
[services.slow]
command = ["cat"]
concurrent = 1
[services.absent]
command = ["/no/such/program"]
[services.as-user]
command = ["true"]
"""


def offer(w, name, text):
    folder = w.paths.config[0] / "services.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.toml").write_text(text)


@asynccontextmanager
async def sandboxes():
    async with (
        world({}, image=False, rules=RULES) as w,
        plain(w, "work", "vault", tops={"vault": SERVICES}) as guests,
    ):
        yield w, guests["work"], guests["vault"]


async def test_a_record_names_services():
    async with sandboxes() as (_, work, vault):
        call = "vitrail-call -t vault"
        code, said = await work.script(f"{call} where key </dev/null")
        assert (code, said) == (0, "/usr\nkey\n")
        assert (await work.script(f"{call} absent </dev/null"))[0] == 127
        # The agent of this guest is not root.
        assert (await work.script(f"{call} as-user </dev/null"))[0] == 125
        # The record precedes the guest's own files.
        own = vault.home / ".config/vitrail-services"
        own.mkdir(parents=True)
        (own / "where").write_text("#!/bin/sh\necho another\n")
        (own / "where").chmod(0o755)
        code, said = await work.script(f"{call} where key </dev/null")
        assert (code, said) == (0, "/usr\nkey\n")


async def test_a_service_runs_as_often_at_once_as_its_record_says():
    async with sandboxes() as (_, work, _vault):
        call = "vitrail-call -t vault slow"
        _, said = await work.script(
            f"mkfifo held; {call} <held >first & exec 3>held; echo one >&3\n"
            f"until test -s first; do sleep 0.1; done\n"
            f"{call} </dev/null; echo second=$?; exec 3>&-; wait; cat first\n"
            f"echo two | {call}; echo third=$?"
        )
        assert "second=125\none\ntwo\nthird=0\n" in said, said
        assert "too many calls of slow are already running in the target" in said


async def test_a_service_of_the_desktop_has_what_its_file_names():
    async with sandboxes() as (w, work, _):
        given = w.base / "given"
        given.mkdir()
        (given / "text").write_text("given\n")
        secret = w.base / "secret"
        secret.write_text("secret\n")
        script = (
            f"cat; cat {given}/text; cat {secret}; "
            f"echo changed 2>&1 >{given}/new; ls -A ~; ls /sys/class/net; "
            'echo "$1 $VITRAIL_CALL_SOURCE $QREXEC_SERVICE_ARGUMENT"; exit 7'
        )
        offer(
            w,
            "look",
            f"command = ['/bin/sh', '-c', '''{script}''', 'look']\nread = ['{given}']\n",
        )
        code, said = await work.script(
            "echo hello | vitrail-call -t @adminvm look key 2>&1"
        )
        assert code == 7
        lines = said.splitlines()
        assert lines[:2] == ["hello", "given"], said
        assert lines[-1] == "key work key"
        assert "secret" not in said
        assert not (given / "new").exists()
        log = w.paths.state / "services/look.log"
        assert "No such file" in log.read_text()

        offer(
            w,
            "write",
            f"command = ['/bin/sh', '-c', 'cat >{given}/new']\nwrite = ['{given}']\n",
        )
        code, said = await work.script("echo new | vitrail-call -t @adminvm write")
        assert (code, said) == (0, "")
        assert (given / "new").read_text() == "new\n"

        async def none_left():
            return not list(_jails(w))

        await eventually(none_left)


async def test_directory_above_read_only_path_of_service_keeps_its_name():
    async with sandboxes() as (w, work, _):
        top = w.base / "given"
        (top / "a/hooks").mkdir(parents=True)
        script = (
            f"cd {top}; mv a old; mkdir -p a/hooks; echo evil >a/hooks/x; echo >new"
        )
        offer(
            w,
            "rename",
            f"command = ['/bin/sh', '-c', '{script}']\n"
            f"read = ['{top}/a/hooks']\nwrite = ['{top}']\n",
        )
        code, text = await work.script("vitrail-call -t @adminvm rename </dev/null")
        assert code == 0, text
        assert sorted(path.name for path in top.iterdir()) == ["a", "new"]
        assert list((top / "a/hooks").iterdir()) == []


def _jails(w):
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if b"serve-here" in words and str(w.base).encode() in words:
                yield words


async def test_a_service_of_the_desktop_is_refused_without_a_good_file():
    async with sandboxes() as (w, work, _):
        call = "vitrail-call -t @adminvm"
        code, said = await work.script(f"{call} absent </dev/null 2>&1")
        assert (code, "no service absent" in said) == (125, True), said
        offer(w, "broken", "command = ['true']\nnetwork = 'yes'\n")
        code, said = await work.script(f"{call} broken </dev/null 2>&1")
        assert (code, "cannot start the service" in said) == (125, True), said
        # A file that others can write is not the user's.
        offer(w, "shared", "command = ['true']\n")
        (w.paths.config[0] / "services.d/shared.toml").chmod(0o666)
        code, said = await work.script(f"{call} shared </dev/null 2>&1")
        assert (code, "cannot start the service" in said) == (125, True), said
        # A path through a link may lead where another sandbox wants.
        (w.base / "link").symlink_to("/etc")
        offer(w, "linked", f"command = ['true']\nread = ['{w.base}/link']\n")
        assert (await work.script(f"{call} linked </dev/null"))[0] == 125
        offer(w, "as-user", "command = ['true']\n")
        assert (await work.script(f"{call} as-user </dev/null"))[0] == 125
        offer(w, "true", "command = ['true']\n")
        assert (await work.script(f"{call} true </dev/null"))[0] == 0


async def test_a_call_to_the_desktop_is_cut_with_its_rule():
    async with sandboxes() as (w, work, _):
        offer(w, "echo", "command = ['cat']\n")
        async with trio.open_nursery() as nursery:
            ended = []

            async def call():
                ended.append(
                    await work.script(
                        "mkfifo in; exec 3<>in; echo hello >&3; "
                        "vitrail-call -t @adminvm echo <in >out"
                    )
                )

            nursery.start_soon(call)

            async def arrived():
                out = work.home / "out"
                return out.exists() and out.read_text() == "hello\n"

            await eventually(arrived)
            rules = w.paths.config[0] / "policy.d/30-mine.policy"
            rules.write_text("vitrail.Call * work vault allow\n")

            async def over():
                return ended

            await eventually(over)
        assert ended[0][0] == 125


async def test_the_user_calls_and_lists_services():
    async with sandboxes() as (w, _, vault):
        own = vault.home / ".config/vitrail-services"
        own.mkdir(parents=True)
        (own / "greet").write_text(
            '#!/bin/sh\necho "hello $QREXEC_REMOTE_DOMAIN $1"\nexec cat\n'
        )
        (own / "greet").chmod(0o755)
        given = w.base / "given"
        given.write_text("more\n")
        with given.open() as stdin:
            told = await brokerctl(
                *("call", "vault", "greet", "you"),
                env=w.environ,
                stdin=stdin.fileno(),
            )
        assert (told.code, told.out) == (0, "hello dom0 you\nmore\n"), told
        told = await brokerctl("call", "vault", "where", "key", env=w.environ)
        assert (told.code, told.out) == (0, "/usr\nkey\n"), told
        told = await brokerctl("call", "vault", "none", env=w.environ)
        assert told.code == 127, told
        for words in (["../x"], ["-x"], ["where", "a b"]):
            told = await brokerctl("call", "--", "vault", *words, env=w.environ)
            assert (told.code, "invalid service name" in told.err) == (1, True), told
        offer(w, "look", "command = ['true']\n")
        told = await brokerctl("services", "--json", env=w.environ)
        assert ("vault", "where") in [
            (o["sandbox"], o["service"]) for o in told.objects
        ]
        assert told.objects[-1] == {
            "sandbox": "@adminvm",
            "service": "look",
            "program": "true",
            "place": str(w.paths.config[0] / "services.d/look.toml"),
        }
        told = await brokerctl("services", "vault", "--json", env=w.environ)
        last = told.objects[-1]
        assert (last["service"], last["program"]) == ("greet", str(own / "greet"))
