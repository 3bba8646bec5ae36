"""A browser with the sound filter, and a page that plays, records and tells.

The page is served here on localhost (a secure context, so it may ask for the
microphone) and reports by requests: what getUserMedia gave it, and every so
often how loud the loudest sample was since.
"""

from __future__ import annotations

import shutil
import threading
from contextlib import asynccontextmanager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl

import pytest

from tests.kit.eventually import eventually
from tests.kit.sound.servers import started

PAGE = b"""<!doctype html><meta charset="utf-8"><title>sound</title><script>
const say = (key, value) => fetch("/said?" + key + "=" + encodeURIComponent(value), {method: "POST"});
const context = new AudioContext();
function play() {
  const tone = context.createOscillator();
  tone.frequency.value = 440;
  tone.connect(context.destination);
  tone.start();
  say("plays", context.state);
}
async function record() {
  const raw = {echoCancellation: false, noiseSuppression: false, autoGainControl: false};
  try {
    const stream = await navigator.mediaDevices.getUserMedia({audio: raw});
    const track = stream.getAudioTracks()[0];
    track.onended = () => say("ended", "yes");
    say("microphone", track.label);
    const ear = context.createAnalyser();
    ear.fftSize = 16384;
    context.createMediaStreamSource(stream).connect(ear);
    const samples = new Float32Array(ear.fftSize);
    setInterval(() => {
      ear.getFloatTimeDomainData(samples);
      say("peak", Math.max(...samples.map(Math.abs)));
    }, 200);
  } catch (error) { say("microphone", error.name); }
}
if (location.search.includes("play")) play();
if (location.search.includes("record")) record();
</script>"""
PREFERENCES = """
user_pref("media.autoplay.default", 0);
user_pref("media.autoplay.blocking_policy", 0);
user_pref("media.cubeb.backend", "pulse");
user_pref("media.cubeb.sandbox", false);
user_pref("media.navigator.permission.disabled", true);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.tabs.inTitlebar", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
"""
_OPTIONS = {
    "firefox-esr": ("--headless", "--no-remote", "--profile", "{profile}"),
    "chromium": (
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--user-data-dir={profile}", "--use-fake-ui-for-media-stream"),
        "--autoplay-policy=no-user-gesture-required",
        "--disable-features=AudioServiceSandbox",
    ),
}
BROWSERS = tuple(_OPTIONS)


class Page:
    """The page's reports: ``said`` has the values of each key, oldest first."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.said: dict[str, list[str]] = {}

    def address(self, query: str) -> str:
        """Where a browser finds it."""
        return f"http://localhost:{self.port}/?{query}"

    async def hears(self, key: str, deadline: float = 120) -> str:
        """The first word of that kind, once it has come."""

        async def come():
            return self.said.get(key, [])[:1]

        return (await eventually(come, deadline=deadline))[0]

    async def peaks(self, fits, deadline: float = 60) -> None:
        """Wait until three peaks in a row, from now on, are such."""
        start = len(self.said.get("peak", []))

        async def come():
            new = [float(word) for word in self.said.get("peak", [])[start:]]
            return len(new) >= 3 and all(fits(peak) for peak in new[-3:])

        await eventually(come, deadline=deadline)


@contextmanager
def page():
    """Serve the page while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._answer(PAGE if self.path.startswith("/?") else b"")

        def do_POST(self) -> None:
            for key, word in parse_qsl(self.path.partition("?")[2]):
                made.said.setdefault(key, []).append(word)
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        made = Page(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield made
        finally:
            server.shutdown()
            thread.join()


@asynccontextmanager
async def browser(name: str, filtered, address: str):
    """That browser, without a window, with a filter."""
    if shutil.which(name) is None:
        pytest.skip(f"not installed: {name}")
    profile = filtered.server.directory / f"profile-{name}"
    profile.mkdir()
    (profile / "user.js").write_text(PREFERENCES)
    options = [word.format(profile=profile) for word in _OPTIONS[name]]
    async with started(name, *options, address, env=filtered.environment) as child:
        yield child
