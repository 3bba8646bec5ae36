"""Firefox inside a micro VM: it opens a link of another sandbox, and its links go out.

Where every instruction is emulated its first window takes minutes, so the other
sandbox is a guest without a machine.
"""

from __future__ import annotations

from contextlib import asynccontextmanager

import pytest
import trio

from broker.core.paths import find_paths
from broker.launch.image.build import build_image
from tests.kit.eventually import eventually
from tests.kit.plain_guests import plain
from tests.kit.vm.images import FIREFOX_IMAGE
from tests.kit.wayland.compositor import pixels, wait_window, windows
from tests.kit.wayland.input import Pointer
from tests.kit.wayland.pixels import near
from tests.kit.wayland.resizing import kept
from tests.kit.world import record, the_image, world

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]

RULES = """\
vitrail.OpenURL * work @default allow target=web scheme=http host=localhost
vitrail.OpenURL * web  @default allow target=work scheme=mailto
"""
PORT = 8000
COLOUR = 0x3060C0
MINUTES = 60.0
SERVE = f"""
import http.server, urllib.parse
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        title = urllib.parse.unquote(self.path)
        body = "<title>" + title + "</title><body bgcolor=#3060c0 style='margin:0'>"
        body += "<a href='mailto:someone@example.org' style='display:block;height:2000px'>"
        body += "<h1>arrived: " + title + "</h1></a>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())
server = http.server.HTTPServer(("127.0.0.1", {PORT}), Handler)
open("/tmp/serving", "w").close()
server.serve_forever()
"""
# A profile that asks for no other page, and hands mail addresses to vitrail-open.
PROFILE = r"""
set -e
mkdir -p ~/profile ~/.local/share/applications ~/.config
cat > ~/profile/user.js <<'END'
user_pref("browser.startup.homepage_override.mstone", "ignore");
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("app.normandy.enabled", false);
user_pref("fission.autostart", false);
user_pref("dom.ipc.processCount", 1);
user_pref("dom.ipc.processPrelaunch.enabled", false);
user_pref("extensions.update.enabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("browser.safebrowsing.malware.enabled", false);
user_pref("browser.safebrowsing.phishing.enabled", false);
user_pref("browser.translations.enable", false);
END
echo '{"schemes":{"mailto":{"action":4}}}' > ~/profile/handlers.json
cd ~/.local/share/applications
printf '[Desktop Entry]\nType=Application\nName=Firefox\n' > firefox.desktop
echo "Exec=firefox-esr --profile $HOME/profile %u" >> firefox.desktop
printf '[Desktop Entry]\nType=Application\nName=Open by Vitrail\nExec=vitrail-open %%u\n' \
    > vitrail-open.desktop
printf '[Default Applications]\nx-scheme-handler/http=firefox.desktop\n' > mimeapps.list
printf '[Default Applications]\nx-scheme-handler/mailto=vitrail-open.desktop\n' \
    > ~/.config/mimeapps.list
while [ ! -e /tmp/serving ]; do sleep 0.2; done
"""


@asynccontextmanager
async def household():
    """A machine with Firefox, and a sandbox whose links open there."""
    await the_image()  # and what else a machine needs
    assert await build_image(find_paths(), FIREFOX_IMAGE, print)
    launch = f'image = "{FIREFOX_IMAGE.name}"\nboot_deadline = 300\ncpus = 2'
    web = record("persistent", colour="orange", launch=launch)
    web = web.replace('memory = "512M"', 'memory = "2G"')
    web += "[limits]\nwayland_clients = 64\n"
    async with world({"web": web}, start=False) as w:
        folder = w.paths.config[0] / "policy.d"
        folder.mkdir(parents=True)
        (folder / "30-mine.policy").write_text(RULES)
        await w.start()
        await w.run("web", "python3", "-c", SERVE, window=False)
        code, out = await w.output("web", "sh", "-c", PROFILE)
        assert code == 0, out
        async with plain(w, "work") as guests:
            yield w, guests["work"]


async def test_a_link_opens_in_firefox_in_a_machine_and_its_links_leave_by_rule():
    async with household() as (w, work):
        work.opens("x-scheme-handler/mailto", "foot -T %u sleep 1000")
        link = f"http://localhost:{PORT}/from-work"
        code, said = await work.command("xdg-open", link, deadline=15 * MINUTES)
        assert code == 0, said
        (browser,) = await wait_window(w.comp, title="/from-work", deadline=900)
        assert browser["name"].startswith("[web] ")
        assert "Firefox" in browser["name"]

        async def drawn():
            image = await pixels(w.comp)
            return int(near(image, COLOUR, 3).sum()) > 20_000 and image

        kept("opening-firefox-target", await eventually(drawn, deadline=600))
        await a_link_is_clicked(w, browser)


async def a_link_is_clicked(w, browser):
    area = browser["rect"]
    middle = (area["x"] + area["width"] // 2, area["y"] + area["height"] // 2)

    async def begun():
        return w.events("transfer.begin", sandbox="web")

    with Pointer(w.comp.display, (1280, 800)) as pointer, trio.fail_after(600):
        while True:  # until the page hears it
            pointer.click(*middle)
            with trio.move_on_after(60):
                await eventually(begun, deadline=120)
                break
    title = "mailto:someone@example.org"
    (window,) = await wait_window(w.comp, title=title, deadline=300)
    assert window["name"].startswith("[work] ")
    decision = w.events("decision", service="vitrail.OpenURL", sandbox="web")[-1]
    assert decision["verdict"] == "allow"
    assert decision["rule"].endswith("30-mine.policy:2")
    kept("opening-firefox-source", await pixels(w.comp))
    assert len(windows(await w.comp.tree())) >= 2
