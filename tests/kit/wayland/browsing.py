"""A page with a link for a real browser, and a person who clicks on it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trio

from tests.kit.wayland.input import Pointer

ADDRESS = "https://example.org/clicked"


def page(address: str = ADDRESS) -> str:
    """A page titled "a page", all of which is a link."""
    return (
        f'<!doctype html><title>a page</title><body><a href="{address}" style="'
        "position:fixed;left:0;top:0;width:100%;height:100%;"
        'font-size:40px">a link that fills the page</a>'
    )


@contextmanager
def served(title: str) -> Iterator[str]:
    """Serve a page with this title; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<!doctype html><title>{title}</title><h1>{title}</h1>".encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


FIREFOX_PREFERENCES = """
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("browser.aboutwelcome.enabled", false);
user_pref("browser.tabs.inTitlebar", 0);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("toolkit.telemetry.reportingpolicy.firstRun", false);
user_pref("termsofuse.bypassNotification", true);
"""


async def clicked(comp, done, *, size=(1280, 800), at=(640, 600), deadline=60):
    """Click in the middle of the screen until ``done`` returns something true.

    A browser has its window before it reacts to input, and nothing tells when it does.
    """
    with Pointer(comp.display, size) as pointer, trio.fail_after(deadline):
        while not (result := await done()):
            pointer.click(*at)
            with trio.move_on_after(3):
                while not (result := await done()):
                    await trio.sleep(0.1)
                return result
    return result
