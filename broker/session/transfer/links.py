"""Opening addresses and documents by the user's own programs for them.

A session child starts such a program, after it has checked the order's warrant.
"""

from __future__ import annotations

import os
import shutil

import msgspec

from broker.core.errors import RefusedError, SetupError, UpstreamError
from broker.core.transfer.urls import DEFAULT_SCHEMES, take_url
from broker.helpers.process import popen
from broker.ipc.control.types.opening import OpenRequest
from broker.ipc.session import file_orders as m
from broker.session.order_exchange import OrderExchange
from broker.wire.row import serves
from policy.names import ADMIN_NAMES

# The user's programs need these to reach the session; addresses of a display server or
# bus come from nowhere else.
_SESSION = (
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LC_ALL",
    "XDG_RUNTIME_DIR",
    "WAYLAND_DISPLAY",
    "DISPLAY",
    "DBUS_SESSION_BUS_ADDRESS",
    "XDG_CURRENT_DESKTOP",
    "XDG_SESSION_TYPE",
    "XDG_DATA_DIRS",
    "XDG_DATA_HOME",
    "XDG_CONFIG_HOME",
    "XDG_CONFIG_DIRS",
    "XDG_CACHE_HOME",
)
LOOP = "VITRAIL_OPENING"
"""Set for programs that we start: our own handler refuses to be called by one."""


@serves(m.OPEN_NAMED_ADDRESS)
def open_named_url(exchange: OrderExchange, order: m.OpenNamedAddress) -> None:
    """Open an address that the user's call names, by the desktop's program for it."""
    url = take_url(order.url, None)
    named = msgspec.json.decode(exchange.user_call.parameters, type=OpenRequest)
    # guard: an address that the user has not named is not opened as the user's
    if (
        named.sandbox not in ADMIN_NAMES
        or named.url is None
        or take_url(named.url, None) != url
    ):
        raise RefusedError("the user has not named this address")
    open_here(exchange, url.canonical)


@serves(m.OPEN_ADDRESS)
def open_url(exchange: OrderExchange, order: m.OpenAddress) -> None:
    """Open an address that a sandbox may open, by the desktop's program for it."""
    url, permit = take_url(order.url, None), exchange.permit
    # guard: an address is one that the permit is about
    named = permit.scheme, permit.host or "", permit.about
    if named != (url.scheme, url.host, url.shown):
        raise RefusedError("the permit is for another address")
    # guard: a rule without schemes opens pages and mail
    if not permit.schemes and url.scheme not in DEFAULT_SCHEMES:
        raise RefusedError(f"no rule names the scheme {url.scheme}")
    open_here(exchange, url.canonical)


def open_here(exchange: OrderExchange, word: str) -> None:
    """Open an address, or a file of our own, by the user's program for it.

    Raises SetupError without one, UpstreamError where that fails at once.
    """
    if shutil.which("gio") is None:
        raise SetupError(
            "no program that opens addresses is installed",
            hint="install 'gio' (libglib2.0-bin)",
        )
    env = {key: os.environ[key] for key in _SESSION if key in os.environ}
    # It is one word after "--", and the program outlives this process.
    process = popen.start_process(
        ["gio", "open", "--", word],
        env={**env, LOOP: "1"},
        stdout=popen.DEVNULL,
        stderr=popen.DEVNULL,
        outlive_us=True,
    )
    try:
        code = process.wait(1.0)
    except popen.TimeoutExpired:
        code = 0
    if code:
        raise UpstreamError(f"gio ended with code {code}")
    exchange.answer()
