"""Links that are clicked in a terminal and in a browser inside a micro VM.

Both open in the browser of another micro VM, where a page is served that shows the
address in its title.  The browser is NetSurf, which has a window within the minute
also where every instruction is emulated.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.cli.images.building.build import build_image
from broker.core.paths import find_paths
from tests.kit.clipboard.person import Person
from tests.kit.eventually import eventually
from tests.kit.vm.images import LINKS_IMAGE
from tests.kit.wayland.compositor import pixels, wait_window, windows
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import near
from tests.kit.wayland.resizing import kept
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(1500)]

RULES = """\
vitrail.OpenURL * work @default allow target=personal scheme=http host=localhost
vitrail.OpenURL * work @default allow target=personal scheme=mailto
"""
PORT = 8000
COLOUR = 0x3060C0
SERVE = f"""
import http.server, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        title = urllib.parse.unquote(self.path)
        body = "<title>" + title + "</title><body bgcolor=#3060c0><h1>arrived: " + title
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
server = http.server.HTTPServer(("127.0.0.1", {PORT}), Handler)
open("/tmp/serving", "w").close()
server.serve_forever()
"""
# A mail program that is a page: the address in the request names the link.
WEBMAIL = f"""
mkdir -p ~/.local/share/applications ~/bin
printf '#!/bin/sh\\nexec netsurf-gtk "http://localhost:{PORT}/compose?$1"\\n' > ~/bin/webmail
chmod +x ~/bin/webmail
cd ~/.local/share/applications
printf '[Desktop Entry]\\nType=Application\\nExec=%s/bin/webmail %%u\\n' ~ > webmail.desktop
printf '[Default Applications]\\nx-scheme-handler/mailto=webmail.desktop\\n' > mimeapps.list
while [ ! -e /tmp/serving ]; do sleep 0.2; done
"""
# As docs/opening.md has it, and a page with a link that fills the window.
HANDLER = """
mkdir -p ~/.local/share/applications ~/.config
printf '[Desktop Entry]\\nType=Application\\nName=Open by Vitrail\\nExec=vitrail-open %%u\\n' \
    > ~/.local/share/applications/vitrail-open.desktop
printf '[Default Applications]\\nx-scheme-handler/mailto=vitrail-open.desktop\\n' \
    > ~/.config/mimeapps.list
cat > ~/page.html <<'END'
<title>a page</title>
<a href="mailto:someone@example.org" style="display:block;height:2000px">
<h1>write to someone</h1></a>
END
"""
_CONTROL, _SHIFT, _O, _S = 29, 42, 24, 31


@asynccontextmanager
async def machines():
    """A sandbox whose links open in the browser of another one."""
    await the_image()  # and what else a machine needs
    assert await build_image(find_paths(), LINKS_IMAGE, print)
    image = f'image = "{LINKS_IMAGE.name}"\nboot_deadline = 300'
    records = {
        "work": record("persistent", colour="blue", launch=image),
        "personal": record("persistent", colour="orange", launch=image),
    }
    async with world(records, rules=RULES) as w:
        await w.run("personal", "python3", "-c", SERVE, window=False)
        for name, script in (("personal", WEBMAIL), ("work", HANDLER)):
            code, out = await w.output(name, "sh", "-c", script)
            assert code == 0, out
        yield w


async def until_begun(w, act):
    """Act again each half minute until a request of the sandbox has begun."""
    before = len(w.events("transfer.begin", sandbox="work"))

    async def begun():
        return len(w.events("transfer.begin", sandbox="work")) > before

    with trio.fail_after(300):
        while True:
            await act()
            with trio.move_on_after(30):
                await eventually(begun, deadline=60)
                return


async def arrived(w, title, rule, picture):
    """The page is shown by the browser of the other machine, by this rule."""
    (window,) = await wait_window(w.comp, title=title, deadline=300)
    assert window["name"].startswith("[personal] ")
    ended = await w.wait_event("transfer.end", deadline=120, sandbox="work")
    assert (ended["target"], ended["outcome"]) == ("personal", "done")
    decision = w.events("decision", service="vitrail.OpenURL", verdict="allow")[-1]
    assert decision["rule"].endswith(f"30-mine.policy:{rule}")

    async def drawn():
        image = await pixels(w.comp)
        return int(near(image, COLOUR, 3).sum()) > 20_000 and image

    kept(picture, await eventually(drawn, deadline=120))
    return window


async def closed(w, window):
    await w.comp.command(f"[con_id={window['id']}] kill")

    async def gone():
        return window["id"] not in {one["id"] for one in windows(await w.comp.tree())}

    await eventually(gone, deadline=120)


async def test_links_of_a_terminal_and_a_browser_open_in_another_machines_browser():
    async with machines() as w:
        await a_link_in_a_terminal(w)
        await a_link_in_a_browser(w)


async def a_link_in_a_terminal(w):
    link = f"http://localhost:{PORT}/from/a/terminal"
    show = f"printf 'see {link} today'; sleep 10000"
    await w.run("work", "foot", "-T", "work", "sh", "-c", show)
    (terminal,) = await wait_window(w.comp, title="[work] work", deadline=120)
    with Person(w) as person:
        await person.awake()
        await person.focus("work")

        async def choose():
            # The mode in which links have labels; the only one has the label s.
            await person.press(_O, _CONTROL, _SHIFT)
            await person.press(_S)

        await until_begun(w, choose)
    window = await arrived(w, "/from/a/terminal", 1, "opening-vm-terminal")
    await closed(w, window)
    await closed(w, terminal)


async def a_link_in_a_browser(w):
    show = 'exec netsurf-gtk "file://$HOME/page.html"'
    await w.run("work", "sh", "-c", show)
    (browser,) = await wait_window(w.comp, title="a page", deadline=300)
    assert browser["name"].startswith("[work] ")
    area = browser["rect"]
    middle = (area["x"] + area["width"] // 2, area["y"] + area["height"] // 2)
    with Pointer(w.comp.display, (1280, 800)) as pointer:

        async def click():
            pointer.click(*middle)

        await until_begun(w, click)
    await arrived(w, "mailto:someone@example.org", 2, "opening-vm-browser")
