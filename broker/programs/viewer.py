"""``vitrail-viewer``: owns screen, sound and the user, and decides.

Order of start: the fork server of helpers, the link's listener, the authority, the pump,
the control socket.
"""

from __future__ import annotations

import argparse

from broker.authority.options import Options
from broker.helpers.apart import read_compiled
from broker.helpers.compositor_socket import display_setting
from broker.helpers.terminal_log import leave_terminal
from broker.helpers.viewer_confinement import confine_viewer
from broker.net.link.wire_types import Role
from broker.net.link_service.config import LinkConfig, load_link_config
from broker.net.link_service.key_store import LinkStore
from broker.net.listeners import Listener, open_listener
from broker.programs.start import (
    Run,
    StartedBroker,
    add_unjailed,
    parser_for,
    run_broker,
)
from broker.viewer.own_files import clear_displays, own_files


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = parser_for(
        "vitrail-viewer", "Vitrail's broker for the machine with the screen"
    )
    add_unjailed(parser)
    parser.set_defaults(sockets=("control", "link"))
    parser.add_argument(
        "--listen",
        default="",
        metavar="ENDPOINT",
        help="where to listen for the host (default: listen in link.toml, "
        "or vsock:any:6499)",
    )
    parser.add_argument(
        "--peer-cid",
        type=int,
        metavar="CID",
        help="the host's CID, the only one accepted (default: peer_cid in "
        "link.toml, or 2)",
    )
    words = parser.parse_args()
    leave_terminal()
    run_broker(
        "viewer",
        words,
        lambda options: _prepare(options, words),
        compositor=str(display_setting() or ""),
    )


def _prepare(options: Options, words: argparse.Namespace) -> Run:
    """Read ``link.toml``; return the coroutine that runs the viewer."""
    link = load_link_config(
        options.paths, Role.VIEWER, endpoint=words.listen, peer_cid=words.peer_cid
    )

    async def run(broker: StartedBroker) -> None:
        # Now: a confined viewer makes no sockets of a network, and connects to none.
        listener = await _listen(broker.options, link)
        [program] = read_compiled(broker.viewer_filter)
        clear_displays(broker.options.paths)
        confine_viewer(program, *own_files(broker.options.paths))
        # Late: executed in the confined process alone, and mistakes in link.toml are
        # reported before these are loaded.
        from broker.viewer.broker import run_viewer
        from broker.viewer.host_ends.linked_host import LinkedHost

        try:
            await run_viewer(
                broker.authority,
                broker.options,
                broker.forks,
                broker.ready,
                role="viewer",
                make_end=lambda side: LinkedHost(side, link, listener),
            )
        finally:
            listener.close()

    return run


async def _listen(options: Options, link: LinkConfig) -> Listener:
    """Listen for the host, with a key to answer by.  Raises SetupError."""
    LinkStore(options.paths).identity()
    activated = options.sockets.get("link")
    if activated is None:
        return await open_listener(link.endpoint, mode=link.mode)
    activated.settimeout(0)
    return Listener(link.endpoint, activated)


if __name__ == "__main__":
    main()
