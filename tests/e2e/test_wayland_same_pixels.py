"""Applications compared with themselves: the filter shows the same pixels.

Each runs twice on the same sway, once before the compositor and once before the
filter, with a content of the same size; the pictures of the content are compared
pixel by pixel.  A crop that begins elsewhere, a cut edge or another scale differ.
"""

from __future__ import annotations

import shutil
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import trio
from PIL import Image, ImageDraw

from tests.kit.eventually import eventually
from tests.kit.wayland.apps import boxed
from tests.kit.wayland.compositor import desktop, pixels, windows
from tests.kit.wayland.pixels import frames
from tests.kit.wayland.resizing import kept, picture_name
from tests.kit.wayland.stand import BORDER, CONFIG, FRAME, filtered

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not shutil.which("bwrap"), reason="bubblewrap is missing"),
]

WIDE, HIGH = 460, 320
"""Logical pixels of the content."""
PLACE = (60, 20)
SAME = 0.004
"""Which part of the pixels may differ: a caret, a spinner, the rim of rounded corners."""
FLAT = {
    "gtk-3.0": "decoration { box-shadow: none; margin: 0; }",
    "gtk-4.0": "window.csd { box-shadow: none; margin: 0; }",
}
"""Style sheets by which GTK draws no shadow around a window.

At a fractional scale the unfiltered GTK window is the blurred one.  Its surface begins
an odd number of logical pixels (GTK 3: 23) above the content, or is an odd number high
(GTK 4), so surface and content cannot both lie on whole pixels of the screen, and the
compositor moves or stretches all of it by half a pixel.  The filter crops the shadow
off and places the content itself.  The picture to compare it with is therefore that of
the same application without a shadow, in which nothing needs rounding.
"""

TITLE = 36
"""Height of LibreOffice's title bar by the style sheet below.

Unfiltered it has none, because sway offers to draw it; the filter does not, so GTK
draws it.  The picture to compare is what lies below.
"""
OFFICE_STYLE = (
    FLAT["gtk-3.0"] + ".titlebar { min-height: 28px; padding: 4px; border: 0; }"
)

CHROMIUM = (
    *("chromium", "--no-sandbox", "--ozone-platform=wayland", "--disable-gpu"),
    *("--no-first-run", "--user-data-dir=/tmp/profile", "file:///shared/page.html"),
)
FIREFOX = ("firefox-esr", "--no-remote", "--new-instance", "/shared/page.html")
QT6 = """
from PyQt6.QtWidgets import QApplication, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget
app, window = QApplication([]), QWidget()
column = QVBoxLayout(window)
column.addWidget(QPushButton("a button"))
text = QPlainTextEdit(open("/shared/text.txt").read())
text.setReadOnly(True)
column.addWidget(text)
window.show()
app.exec()
"""
LIBREOFFICE = """
mkdir -p /tmp/office/user && cp /shared/registrymodifications.xcu /tmp/office/user/
exec env XDG_CONFIG_HOME=/shared/office soffice --nologo --norestore --view -env:UserInstallation=file:///tmp/office /shared/text.txt
"""
"""Without its first start's tip, and without a caret."""
OFFICE_SETTINGS = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Office.Common/Misc"><prop oor:name="FirstRun" oor:op="fuse">
<value>false</value></prop></item>
<item oor:path="/org.openoffice.Office.Common/Misc"><prop oor:name="ShowTipOfTheDay" oor:op="fuse">
<value>false</value></prop></item>
</oor:items>
"""
JAVA = """
Xwayland :7 -ac & until [ -S /tmp/.X11-unix/X7 ]; do sleep 0.1; done
exec env DISPLAY=:7 java /shared/Window.java
"""
"""X11 has its window manager in the guest or none; here none, so the window has no title."""
SWING = """
import java.awt.*;
import javax.swing.*;
public class Window {
    public static void main(String[] words) {
        SwingUtilities.invokeLater(() -> {
            JWindow window = new JWindow();
            JTree tree = new JTree();
            tree.setFocusable(false);
            JButton button = new JButton("a button");
            button.setFocusable(false);
            window.add(button, BorderLayout.NORTH);
            window.add(new JScrollPane(tree));
            window.add(new JSlider(), BorderLayout.SOUTH);
            window.setBounds(0, 0, WIDE, HIGH);
            window.setVisible(true);
        });
    }
}
"""
QT6_PARTS = ("python3/dist-packages/PyQt6", "*/qt6/plugins/platforms/libqwayland*")
APPS = {
    "foot": ("foot", "-o", "cursor.blink=no", "sh", "-c", "ls /usr; sleep 1000"),
    "gtk3": ("gtk3-demo",),
    "gtk4": ("gtk4-demo",),
    "qt6": ("/usr/bin/python3", "-c", QT6),
    "qt5": ("featherpad", "/shared/text.txt"),
    "mpv": ("mpv", "--no-config", "--vo=wlshm", "--pause", "--no-osc", "/shared/picture.png"),
    "chromium": CHROMIUM,
    "firefox": FIREFOX,
    "libreoffice": ("sh", "-c", LIBREOFFICE),
    "java": ("sh", "-c", JAVA),
}  # fmt: skip
NEEDS = {
    "qt6": ("python3-pyqt6 or qt6-wayland", *(f"/usr/lib/{p}" for p in QT6_PARTS)),
    "libreoffice": (
        "libreoffice-writer and libreoffice-gtk3",
        "/usr/bin/soffice",
        "/usr/lib/libreoffice/program/libvclplug_gtk3lo.so",
    ),
    "java": (
        "xwayland or a JDK with its windows",
        "/usr/bin/Xwayland",
        "/usr/bin/javac",
        "/usr/lib/jvm/*/lib/libawt_xawt.so",
    ),
}
"""Packages that a plain machine may lack, and the files by which they are known."""
TITLES = {"firefox": "page", "libreoffice": "LibreOffice Writer"}
"""A part of the title that says that the document is loaded."""
QUIET = {"firefox": 8, "libreoffice": 8}
"""Seconds without a change after which a picture is complete, where two do not do."""
FIXED = ("java",)
"""A rootful Xwayland is as large as the screen; the application is its upper left part."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    """A page, a text and a picture whose every corner looks different."""
    place = tmp_path_factory.mktemp("same")
    body = "".join(f"<p style='color:#{n:x}{n:x}0'>line {n}</p>" for n in range(16))
    page = f"<html><title>page</title><body style='background:#def'>{body}</body>"
    (place / "page.html").write_text(page)
    (place / "text.txt").write_text("\n".join(f"{n} " * n for n in range(40)))
    image = Image.new("RGB", (WIDE, HIGH), (0, 60, 120))
    draw = ImageDraw.Draw(image)
    for n in range(0, WIDE, 12):
        draw.line((n, 0, WIDE - n, HIGH), fill=(n % 256, 255 - n % 256, 90))
    image.save(place / "picture.png")
    (place / "registrymodifications.xcu").write_text(OFFICE_SETTINGS)
    swing = SWING.replace("WIDE", str(WIDE)).replace("HIGH", str(HIGH))
    (place / "Window.java").write_text(swing)
    (place / "office" / "gtk-3.0").mkdir(parents=True)
    (place / "office" / "gtk-3.0" / "gtk.css").write_text(OFFICE_STYLE)
    for name, style in FLAT.items():
        (place / "flat" / name).mkdir(parents=True)
        (place / "flat" / name / "gtk.css").write_text(style)
    return place


async def fitted(comp, wide: int, high: int, fixed: bool) -> None:
    """Give the largest window this place, and this size where it is not fixed."""

    async def done() -> bool:
        node = max(windows(await comp.tree()), key=lambda n: n["rect"]["width"])
        mark = f"[con_id={node['id']}]"
        rect = node["rect"]
        await comp.command(f"{mark} floating enable")
        if not fixed and (rect["width"], rect["height"]) != (wide, high):
            await comp.command(f"{mark} resize set {wide} {high}")
            await trio.sleep(0.2)
        await comp.command(f"{mark} move absolute position {PLACE[0]} {PLACE[1]}")
        fits = fixed or (rect["width"], rect["height"]) == (wide, high)
        return fits and (rect["x"], rect["y"]) == PLACE

    await eventually(done, deadline=90)


async def content(comp, box: tuple[int, int, int, int], quiet: float) -> np.ndarray:
    """The picture of these pixels once it has stayed the same for ``quiet`` seconds."""
    last, since = None, trio.current_time()
    with trio.fail_after(60):
        while last is None or trio.current_time() < since + quiet:
            await trio.sleep(0.2)
            seen = np.asarray((await pixels(comp)).crop(box)).astype(np.int16)
            if not np.ptp(seen):
                continue  # it has drawn nothing
            if last is None or (seen != last).mean() > SAME / 4:
                last, since = seen, trio.current_time()
    return last


def require(name: str) -> None:
    """Skip where an application is missing; before anything of the test runs."""
    program = APPS[name][0]
    if not shutil.which(program):
        pytest.skip(f"{program} is missing")
    package, *files = NEEDS.get(name, ("",))
    if not all(any(Path("/").glob(file.strip("/"))) for file in files):
        pytest.skip(f"{package} is missing")


@asynccontextmanager
async def application(
    it,
    comp,
    name: str,
    shared: Path,
    display: Path,
    border: int,
    title: int,
    **env: str,
):
    """One run of it with a content of the size that both have."""
    async with boxed(it, *APPS[name], shared=shared, display=display, **env):
        await eventually(lambda: any_window(comp, TITLES.get(name, "")), deadline=120)
        size = (WIDE + 2 * border, HIGH + title + 2 * border)
        await fitted(comp, *size, name in FIXED)
        yield


async def any_window(comp, title: str) -> bool:
    return any(title in (node["name"] or "") for node in windows(await comp.tree()))


def inner(scale: float, border: int, title: int = 0) -> tuple[int, int, int, int]:
    """The content's pixels on the screen."""
    x, y = PLACE[0] + border, PLACE[1] + border + title
    return tuple(round(n * scale) for n in (x, y, x + WIDE, y + HIGH))


@pytest.mark.parametrize("scale", [1, 1.5, 2])
@pytest.mark.parametrize("name", APPS)
async def test_an_application_looks_as_without_the_filter(name, scale, shared):
    require(name)
    config = CONFIG + f"output HEADLESS-1 scale {scale}\n"
    async with desktop(config_extra=config) as comp, filtered(comp) as it:
        # Read by GTK only.
        flat = {"XDG_CONFIG_HOME": "/shared/flat"} if scale % 1 else {}
        title = TITLE if name == "libreoffice" else 0
        quiet = QUIET.get(name, 2)
        async with application(it, comp, name, shared, comp.display, 0, 0, **flat):
            alone = await content(comp, inner(scale, 0), quiet)
        await eventually(lambda: no_window(comp), deadline=30)
        async with application(it, comp, name, shared, it.path, BORDER, title):
            framed = await content(comp, inner(scale, BORDER, title), quiet)
            image = await pixels(comp)
    both = np.concatenate([alone, framed], axis=1).astype(np.uint8)
    kept(picture_name(f"same-{name}-{scale}"), Image.fromarray(both))
    if name in FIXED:  # its frame's right and lower sides are beyond the screen
        left, top, *_ = inner(scale, BORDER)
        beside = [
            image.getpixel((left - 2, top + 9)),
            image.getpixel((left + 9, top - 2)),
        ]
        assert beside == [(FRAME >> 16, FRAME >> 8 & 255, FRAME & 255)] * 2
    else:
        assert any(f.w > WIDE * scale * 0.9 for f in frames(image, FRAME))
    different = (np.abs(alone - framed) > 12).any(axis=2).mean()
    print(f"{name} at {scale}: {different:.4%} of the pixels differ")
    assert different <= SAME


async def no_window(comp) -> bool:
    return not windows(await comp.tree())
