"""Programs of the table in micro VMs: two images of the smaller ones, two of the large.

An emulated machine runs programs 5 to 15 times slower than this one, so that each image is
booted once for its rows, and waits are long.
``python -m tests.programs.machine [IMAGE...]`` makes the images, from the network.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import trio

from broker.cli.images.x11_needs import X_SERVER
from broker.helpers.process.spawn import Child
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.kit.brokerctl import brokerctl, lines_of, paths_of, running
from tests.kit.world import the_image
from tests.programs.places import Desk
from tests.programs.table import PROGRAMS, Program

RECORD = """\
class = "disposable"
display = "allow"
audio = "allow"
[label]
colour = "purple"
[launch]
kind = "microvm"
image = "{image}"
memory = "3G"
cpus = 2
command = ["true"]
[window]
x11 = {x11}
"""
_LARGE = {
    *("audacity", "cargo", "chromium", "darktable", "default-jdk-headless"),
    *("default-jre-headless", "dolphin", "emacs-gtk", "epiphany-browser", "falkon"),
    *("gccgo-12", "gimp", "inkscape", "kate", "konsole", "libreoffice-calc"),
    *("libreoffice-impress", "libreoffice-writer", "nautilus", "neverball", "npm"),
    *("okular", "openjdk-17-jdk", "rustc", "thunderbird", "vlc-bin", "vlc-plugin-qt"),
    *("wine",),
}
_NEWER = {
    "gccgo-12": "gccgo-14",
    "openjdk-17-jdk": "openjdk-21-jdk",
    "openjdk-17-jre": "openjdk-21-jre",
    "featherpad": "featherpad qt6-wayland",
    "postgresql-15": "postgresql-17",
    "postgresql-client-15": "postgresql-client-17",
}
"""Packages of Debian 12, and what Debian 13 has for them."""
MACHINE = "machine"
_BOOT_SECONDS = 300
_SECONDS = 240
_LARGE_SECONDS = 600
_LEFT_SECONDS = 10
"""A program may leave its window to another process of its own."""
_TIMED_OUT = 124
_READY = "the machine is there"


_OFFICE = {
    *("darktable", "dolphin", "emacs-gtk", "gimp", "inkscape", "kate", "konsole"),
    *("libreoffice-calc", "libreoffice-impress", "libreoffice-writer", "nautilus"),
    "okular",
}
"""Those of them for documents, pictures and files, in an image of their own."""
_SMALL_IMAGES = ("programs", "program-windows")
IMAGES = (*_SMALL_IMAGES, "large-office", "large-programs")


def measurable(program: Program) -> bool:
    """Return whether it is run: no reason against it is known."""
    return MACHINE not in program.reasons


def _image_name(program: Program) -> str:
    packages = program.package.split()
    if not _LARGE.isdisjoint(packages):
        return "large-programs" if _OFFICE.isdisjoint(packages) else "large-office"
    return "program-windows" if program.title else "programs"


def image_of(name: str) -> ImageSpec:
    """Return the image of the small rows with or without windows, or of the large ones."""
    rows = [p for p in PROGRAMS if _image_name(p) == name]
    words = (word for row in rows for word in row.package.split())
    packages = {new for word in words for new in _NEWER.get(word, word).split()}
    return ImageSpec(
        name=name, packages=(*DEFAULT_PACKAGES, *sorted(packages), X_SERVER)
    )


async def in_machines(
    d: Desk, programs: Sequence[Program]
) -> AsyncIterator[tuple[str, str]]:
    """Run each in a machine of its kind; yield names and why one does not do it."""
    kinds: dict[tuple[str, bool], list[Program]] = {}
    for program in programs:
        if measurable(program):
            kinds.setdefault((_image_name(program), program.x11), []).append(program)
    for (name, x11), rows in kinds.items():
        image = await the_image(image_of(name))
        folder = paths_of(d.env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True, exist_ok=True)
        text = RECORD.format(image=image.name, x11=str(x11).lower())
        (folder / "mine.toml").write_text(text)
        async with _machine(d) as machine:
            for program in rows:
                yield program.name, await _inside(d, machine, program)


@asynccontextmanager
async def _machine(d: Desk) -> AsyncIterator[str]:
    """Start a machine of the record, and yield the sandbox's name."""
    words = ("sh", "-c", f"echo {_READY}; exec sleep 100000")
    async with running("run", "--no-window", "mine", "--", *words, env=d.env) as child:
        with trio.fail_after(_BOOT_SECONDS):
            async with aclosing(lines_of(child)) as lines:
                async for line in lines:
                    if line == _READY:
                        break
        listed = await brokerctl("list", "--json", env=d.env)
        (answer,) = listed.objects
        ((name,),) = [one["running"] for one in answer["records"]]
        try:
            yield name
        finally:
            await brokerctl("stop", "--all", env=d.env)


async def _inside(d: Desk, name: str, program: Program) -> str:
    """Run it in the machine; return why it does not do it there, '' if it does."""
    place = 'cd "$(mktemp -d "$HOME"/XXXX)"'
    script = f'{place}; exec timeout -k 5 "$1" sh -c "$2" </dev/null 2>&1'
    # Without it a run ends if nothing connects to the display within 30 s.
    windowless = () if program.title else ("--no-window",)
    words = ("run", "--quiet", *windowless, name, "--", "sh", "-c", script, "sh")
    small = _image_name(program) in _SMALL_IMAGES
    seconds = _SECONDS if small else _LARGE_SECONDS
    words = (*words, str(seconds), program.script)
    if not program.title:
        done = await brokerctl(*words, env=d.env, deadline=seconds + 60)
        if done.code == _TIMED_OUT:
            return f"did not end in {seconds} s"
        why = d.unsaid(program, done.out)
        return f"{why}, exit {done.code}: {done.err[-300:]!r}" if why else ""
    async with running(*words, env=d.env) as child:
        why = await _shown_by(d, child, program, seconds)
        await child.stop()
        await d.closed()
        return why


async def _shown_by(d: Desk, child: Child, program: Program, seconds: float) -> str:
    """Wait for its window, or a moment longer than for its end."""
    printed: list[str] = []
    async with trio.open_nursery() as nursery:

        async def ended() -> None:
            async with aclosing(lines_of(child)) as lines:
                async for line in lines:
                    printed.append(line)
            await trio.sleep(_LEFT_SECONDS)
            nursery.cancel_scope.cancel()

        nursery.start_soon(ended)
        why = await d.shown(program.title, seconds)
        nursery.cancel_scope.cancel()
        return why
    said = "\n".join(printed)
    return f"ended without a window, and printed {said[-300:]!r}"


if __name__ == "__main__":
    for image_name in sys.argv[1:] or IMAGES:
        trio.run(the_image, image_of(image_name))
