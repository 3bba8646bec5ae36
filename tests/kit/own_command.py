"""The ways in which a person starts a sandbox of each launcher, by its command.

A ``Way`` sets up a world, has the typed command, and ends the sandbox as a person would.
Its program is ``SCRIPT``: it shows a window and runs the lines of a file that it
sees; its answers are on its standard output, which every launcher passes on.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from tests.kit.brokerctl import OUR_PYTHON, brokerctl
from tests.kit.eventually import eventually
from tests.kit.flatpak import applications, environment
from tests.kit.nspawn import skip_without_nspawn
from tests.kit.podman import SHARED, podman_settings, root_directory, shared_words
from tests.kit.podman_store import run as podman
from tests.kit.podman_store import stop_waiting
from tests.kit.records import shown_record
from tests.kit.rootful import IN_USER_NAMESPACE, PLACE, Asker
from tests.kit.toolbox import IMAGE, box_programs
from tests.kit.world import World

RED, ORANGE = (0xD5, 0x5E, 0x00), (0xE6, 0x9F, 0x00)
GREY, PURPLE = (0x55, 0x55, 0x55), (0xCC, 0x79, 0xA7)
RECORD = shown_record(
    'kind = "{kind}"',
    "{launch}",
    colour="orange",
    tables='[audio]\nplayback = "allow"\n',
)
SCRIPT = """\
foot -T "$1" sleep 1000 &
last=
while sleep 0.1; do
  read -r number what text < "$2" || continue
  [ "$number" = "$last" ] && continue
  last=$number
  case $what in
    copy) printf %s "$text" | wl-copy; answer=$?;;
    paste) answer=$(timeout 20 wl-paste --no-newline 2>/dev/null);;
    play) paplay "$3"; answer=$?;;
    hum) paplay --raw /dev/zero & answer=0;;
    files) answer=$(ulimit -n 9999 2>/dev/null; ulimit -Hn);;
  esac
  echo "$number=$answer"
done
"""
"""Arguments: the window's title, the file of requests, a tone."""
APP = "org.example.Foot"


class Talk:
    """Requests to a running script, and its answers."""

    def __init__(self, folder: Path, title: str) -> None:
        self.title = title
        self.asks, self.script = folder / f"{title}.ask", folder / f"{title}.sh"
        self.output = folder / f"{title}.out"
        self.asks.write_text("\n")
        self.script.write_text(SCRIPT)
        self._count = 0

    def words(self, tone: Path) -> tuple[str, ...]:
        """The command that runs the script."""
        return ("sh", *map(str, (self.script, self.title, self.asks, tone)))

    async def ask(self, what: str, text: str = "") -> str:
        """Have it done; returns the answer."""
        self._count += 1
        # In place: a mount of a file is one of its inode.
        self.asks.write_text(f"{self._count} {what} {text}\n")
        start = f"{self._count}="

        def answered() -> list[str]:
            lines = self.output.read_text(errors="replace").splitlines()
            return [line for line in lines if line.startswith(start)]

        return (await eventually(answered, deadline=90))[0].removeprefix(start)

    async def done(self, what: str, text: str = "") -> None:
        """Have it done, without a mistake."""
        assert await self.ask(what, text) == "0", self.output.read_text()

    async def gets(self, text: str) -> None:
        """Paste until it is this: recorded content is only about to be offered."""

        async def same() -> bool:
            return await self.ask("paste") == text

        await eventually(same, deadline=90)


class Way:
    """A launcher's own command, in a world.  Subclasses have ``prepared``."""

    kind = ""
    frame = "[work] "
    """What the frame's title begins with; ``{}`` is the sandbox's name."""
    colour = ORANGE
    boundary = True
    """Whether connections from elsewhere are refused."""
    image = False
    """Whether it needs the guest image."""

    def __init__(self, w: World, folder: Path) -> None:
        self.w, self.folder = w, folder

    @staticmethod
    @asynccontextmanager
    async def settings() -> AsyncIterator[dict[str, str]]:
        """What its world's environment has besides; skips where it cannot run."""
        yield {}

    def before_title(self, name: str) -> str:
        """What precedes the titles of this sandbox's windows."""
        return self.frame.format(name)

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        """Set up what a person sets up once."""
        yield

    def typed(self, *words: str) -> list[str]:
        """The command line."""
        raise NotImplementedError

    @asynccontextmanager
    async def running(self, output: Path, *words: str) -> AsyncIterator[None]:
        """The command runs; its output is in a file.  It has ended at the end."""
        with output.open("wb") as file:
            self.child = subprocess.Popen(
                self.typed(*words),
                env={**OUR_PYTHON, **self.w.environ},
                cwd=self.w.base,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        try:
            yield
        finally:
            await self.clear()
            self.child.terminate()
            await trio.to_thread.run_sync(self.child.wait)

    async def clear(self) -> None:
        """Remove what outlives the command."""

    async def kill(self, leader: int) -> None:
        """Kill the sandbox; ``leader`` is the first process of its lease."""
        os.kill(leader, 9)

    def write_record(self, launch: str = "") -> None:
        """The record of this kind, named ``work``."""
        self.w.write_record("work", RECORD.format(kind=self.kind, launch=launch))


def _brokerctl(*words: str) -> list[str]:
    return [sys.executable, "-m", "broker.cli.app", *words]


class UnrecordedBox(Way):
    """``brokerctl run --bwrap -- COMMAND``."""

    colour = RED

    def before_title(self, name: str) -> str:
        return f"[{name}] "

    def typed(self, *words: str) -> list[str]:
        return _brokerctl("run", "-q", "--bwrap", "--", *words)


class RecordedBox(Way):
    """``brokerctl run SANDBOX`` of a record of bubblewrap's."""

    kind = "bwrap"

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        self.write_record(f'bind_read_only = ["{self.folder}"]')
        yield

    def typed(self, *words: str) -> list[str]:
        return _brokerctl("run", "-q", "work", "--", *words)


class MicroVm(RecordedBox):
    """``brokerctl run SANDBOX`` of a record of a micro VM."""

    kind, image = "microvm", True

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        self.write_record('memory = "512M"\nfolders = 1')
        yield

    def typed(self, *words: str) -> list[str]:
        return _brokerctl("run", "-q", "--no-window", "work", "--", *words)


class _Rootfs(RecordedBox):
    """Its root is almost empty, and has the host's programs."""

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        found = [path for path in SHARED if Path(path).exists()]
        shared = ", ".join(f'"{path}"' for path in (*found, self.folder))
        root = root_directory(self.w.base)
        self.write_record(f'rootfs = "{root}"\nbind_read_only = [{shared}]')
        yield


class RecordedPodman(_Rootfs):
    """``brokerctl run SANDBOX`` of a record of Podman's."""

    kind = "podman"
    settings = staticmethod(podman_settings)


class PodmanImage(RecordedPodman):
    """The same of an image whose ENTRYPOINT is a program; the typed words are its options."""

    program = "xterm"
    image = "localhost/own-entrypoint"

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        found = [path for path in SHARED if Path(path).exists()]
        shared = ", ".join(f'"{path}"' for path in (*found, self.folder))
        tar, root = self.w.base / "root.tar", root_directory(self.w.base)
        subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
        entrypoint = f'ENTRYPOINT ["{self.program}"]'
        podman(self.w.environ, "import", "-c", entrypoint, str(tar), self.image)
        launch = f'container_image = "{self.image}"\nbind_read_only = [{shared}]'
        self.write_record(launch)
        yield

    def typed(self, *words: str) -> list[str]:
        return super().typed(*words[1:])


class Nspawn(_Rootfs):
    """``brokerctl run SANDBOX`` of a record of systemd-nspawn's."""

    kind = "nspawn"

    @staticmethod
    @asynccontextmanager
    async def settings() -> AsyncIterator[dict[str, str]]:
        skip_without_nspawn()
        yield {}


class Podman(Way):
    """``podman run``, with the hook."""

    kind = "podman"
    settings = staticmethod(podman_settings)

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        self.write_record()
        root_directory(self.w.base)
        await install_hook(self.w)
        yield

    def typed(self, *words: str) -> list[str]:
        root = self.w.base / "root"
        return ["podman", *hooked_words(root, "--name=own", *_mounted(self)), *words]

    async def kill(self, leader: int) -> None:
        podman(self.w.environ, "kill", "own")

    async def clear(self) -> None:
        podman(self.w.environ, "rm", "-af", "-t", "0", check=False)


def _mounted(way: Way) -> tuple[str, str]:
    return ("--volume", f"{way.folder}:{way.folder}:ro")


def hooked_words(root: Path, *more: str, name: str = "work") -> list[str]:
    """The words after ``podman`` for a container that the hook leases."""
    annotation = ("--annotation", f"io.vitrail.sandbox={name}")
    words = ["run", "--rm", "--network=none", *annotation, *shared_words()]
    return [*words, *more, "--rootfs", f"{root}:O"]


async def install_hook(w: World) -> None:
    """As the command says: our directory in the file that Podman reads."""
    answer = await brokerctl("launcher", "install", "podman", "--json", env=w.environ)
    assert answer.code == 0, answer
    (found,) = answer.objects
    conf = Path(w.environ["CONTAINERS_CONF"])
    assert found["add_to"] == str(conf)
    hooks = w.paths.config[0].parent / "containers" / "oci" / "hooks.d"
    assert len(list(hooks.glob("vitrail-*.json"))) == 2
    conf.write_text(conf.read_text() + f'hooks_dir = ["{hooks}"]\n')


class RootfulPodman(Way):
    """``sudo podman run``; root's half is ``tests.kit.rootful``."""

    kind = "podman"
    root = "root"
    options: tuple[str, ...] = ()

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        self._asker = Asker(Path(PLACE))
        await self._asker.install(self.w)
        self.write_record()
        yield

    @asynccontextmanager
    async def running(self, output: Path, *words: str) -> AsyncIterator[None]:
        root = self._asker.base / self.root
        typed = hooked_words(root, "--name=own", *self.options, *_mounted(self))
        done = self._asker.begin(*typed, *words)
        output.symlink_to(done.with_suffix(".out"))
        await eventually(output.exists)
        try:
            yield
        finally:
            await self._asker.run("rm", "-af", "-t", "0")
            await self._asker.end(done)

    async def kill(self, leader: int) -> None:
        code, text = await self._asker.run("kill", "own")
        assert code == 0, text


class RootfulPodmanOfAnotherUser(RootfulPodman):
    """The same in a user namespace, with no limit that needs control groups.

    crun sets those by a program in the kernel, and raises a limit for it that root of a
    container, as in which tests may run, cannot raise.
    """

    root = "mapped/root"
    options = (
        *IN_USER_NAMESPACE,
        *("--privileged", "--pids-limit=-1"),
    )


class _SharedBox(Way):
    """A box that shares the home: a label, and no boundary."""

    boundary = False
    frame = "[{}: label, not boundary] "

    @staticmethod
    @asynccontextmanager
    async def settings() -> AsyncIterator[dict[str, str]]:
        async with podman_settings() as found:
            yield found

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        async with installed_box(self.w, self.kind):
            out = await self._create()
            assert "uccessfully created" in out or "Created container" in out, out
            yield

    async def _create(self) -> str:
        raise NotImplementedError

    async def _output(self, *words: str) -> str:
        with trio.fail_after(240):
            done = await trio.run_process(
                list(words),
                env=self.w.environ,
                cwd=self.w.base,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
                check=False,
            )
        return done.stdout.decode(errors="replace")

    async def kill(self, leader: int) -> None:
        # Its programs are in our pid namespace and outlive the box's first process:
        # the lease ends with the command.
        self.child.terminate()


@asynccontextmanager
async def installed_box(w: World, kind: str) -> AsyncIterator[None]:
    """A person has called 'launcher install'; skips where a program is missing."""
    async with box_programs(w):
        answer = await brokerctl("launcher", "install", kind, env=w.environ)
        assert answer.code == 0, answer
        try:
            yield
        finally:
            podman(w.environ, "rm", "-af", "-t", "0", check=False)
            store = w.base / ".local" / "share" / "containers"
            podman(w.environ, "unshare", "rm", "-rf", str(store), check=False)
            stop_waiting(w.environ)


class Toolbox(_SharedBox):
    """``toolbox run``."""

    kind, colour = "toolbox", GREY

    async def _create(self) -> str:
        return await self._output("toolbox", "create", "--image", IMAGE, "t1")

    def typed(self, *words: str) -> list[str]:
        return [f"{self.w.base}/.local/bin/toolbox", "run", "-c", "t1", *words]


class Distrobox(_SharedBox):
    """``distrobox-enter``."""

    kind, colour = "distrobox", PURPLE

    async def _create(self) -> str:
        create = ("distrobox-create", "--yes", "--no-entry", "--image", IMAGE)
        return await self._output(*create, "--name", "d1")

    def typed(self, *words: str) -> list[str]:
        enter = f"{self.w.base}/.local/bin/distrobox-enter"
        return [enter, "-T", "--name", "d1", "--", *words]


class Flatpak(Way):
    """``brokerctl run --flatpak``."""

    kind, program = "flatpak", "sh"

    @asynccontextmanager
    async def prepared(self) -> AsyncIterator[None]:
        env = environment(self.w)
        async with applications(self.w.base, env, command=self.program, Foot=""):
            self.write_record(f'app = "{APP}"\nbind_read_only = ["{self.folder}"]')
            yield

    def typed(self, *words: str) -> list[str]:
        assert words[0] == self.program, "the application's own program"
        return _brokerctl("run", "-q", "--flatpak", APP, "--", *words[1:])

    async def kill(self, leader: int) -> None:
        done = await trio.run_process(
            ["flatpak", "kill", APP], env=self.w.environ, check=False
        )
        assert done.returncode == 0
