"""Documents in the programs that people use, in real micro VMs.

A PDF and a picture that the person opens in a disposable: real programs, real machines,
the rules of a real broker.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec
from tests.kit.brokerctl import brokerctl
from tests.kit.documents import (
    PDF_COLOUR,
    PICTURE_COLOUR,
    write_pdf,
    write_picture,
)
from tests.kit.eventually import eventually
from tests.kit.wayland.compositor import pixels, wait_window, windows
from tests.kit.wayland.pixels import near
from tests.kit.wayland.resizing import kept
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]

# With a browser, so that links can be tried by hand in the same image.
PACKAGES = ("firefox-esr", "imv", "zathura", "zathura-pdf-poppler")
IMAGE = ImageSpec(name="opening", packages=(*DEFAULT_PACKAGES, *PACKAGES))
RULES = """\
vitrail.OpenFile * @adminvm @default allow target=@dispvm:viewer mime=application/pdf,image/*
"""


def machine(sandbox_class, colour, command, memory="1G"):
    """A record of a machine with this image."""
    text = record(sandbox_class, colour=colour, launch='image = "opening"')
    text = text.replace('memory = "512M"', f'memory = "{memory}"')
    text = text.replace('command = ["foot"]', f'command = ["{command}"]\ncpus = 2')
    return text + "boot_deadline = 180\n[limits]\nwayland_clients = 64\n"


@asynccontextmanager
async def household():
    """A broker whose sandboxes run the image with a browser and viewers."""
    await the_image()  # and what else a machine needs
    assert await build_image(find_paths(), IMAGE, print)
    records = {
        "viewer": machine("disposable", "sky", "zathura"),
    }
    async with world(records, rules=RULES) as w:
        yield w


async def gone(w, name):
    """Wait until a sandbox, its machine and its directory are gone."""

    async def look():
        running = [s.name for s in (await w.status()).sandboxes]
        left = [p for p in w.processes().values() if name in p]
        return name not in running and not left

    await eventually(look, deadline=120)
    assert not list((w.paths.runtime / "sandboxes").glob(f"{name}*"))
    assert not list((w.paths.state / "sandboxes").glob(f"{name}*"))


async def a_document_is_seen_and_gone(w, path, colour):
    answer = await brokerctl("open", str(path), env=w.environ, deadline=300)
    assert answer.code == 0, answer
    sandbox = answer.err.rpartition("opened in ")[2].strip()
    assert sandbox.startswith("viewer-"), answer
    (window,) = await wait_window(w.comp, title=f"[{sandbox}] ", deadline=200)

    async def drawn():
        image = await pixels(w.comp)
        return int(near(image, colour, 3).sum()) > 20_000 and image

    kept(f"opening-{path.suffix[1:]}", await eventually(drawn, deadline=120))
    # The person closes the window: its program ends, and the machine with it.
    await w.comp.command(f"[con_id={window['id']}] kill")
    await gone(w, sandbox)
    assert path.read_bytes()[:4] in {b"%PDF", b"\x89PNG"}


async def test_a_pdf_and_a_picture_are_shown_in_disposables_that_are_gone_afterwards(
    tmp_path,
):
    write_pdf(tmp_path / "report.pdf")
    write_picture(tmp_path / "photo.png")
    async with household() as w:
        await a_document_is_seen_and_gone(w, tmp_path / "report.pdf", PDF_COLOUR)
        await a_document_is_seen_and_gone(w, tmp_path / "photo.png", PICTURE_COLOUR)
        words = ("audit", "--kind", "transfer", "-n", "all", "-o", "jsonl")
        seen = (await brokerctl(*words, env=w.environ)).objects
        ends = [e for e in seen if e["kind"] == "transfer.end"]
        assert [(e["target"], e["outcome"]) for e in ends] == [
            ("@dispvm:viewer", "done")
        ] * 2
        assert not windows(await w.comp.tree())
