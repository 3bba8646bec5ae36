"""``vitrail-local``: host and viewer in one, for a single machine.

Order of start: the pump is forked while there is neither trio nor a thread,
then trio runs, and in it the audit log, the template of workers, the roles
and, last, the control socket.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import sys
from importlib import resources
from pathlib import Path

import trio

from broker.core.errors import SetupError, VitrailError
from broker.core.paths import find_paths
from broker.relay.process import start_pump
from broker.session.local import Options, run_local


def main() -> None:
    """Entry point; exits with 1 and a sentence when it cannot start."""
    parser = argparse.ArgumentParser(
        prog="vitrail-local", description="Vitrail's broker for one machine"
    )
    parser.add_argument(
        "--examples",
        action="store_true",
        help="also use the records that came with the program (demo, web, work)",
    )
    parser.add_argument(
        "--allow-unjailed-workers",
        action="store_true",
        help="run where user namespaces are not to be had; 'brokerctl status' warns",
    )
    words = parser.parse_args()
    try:
        _run(examples=words.examples, unjailed=words.allow_unjailed_workers)
    except VitrailError as error:
        sys.stderr.write(f"vitrail-local: {error.diagnostics()}\n")
        sys.exit(1)


def _run(*, examples: bool, unjailed: bool) -> None:
    if os.geteuid() == 0:
        raise SetupError(
            "the broker does not run as root: nothing it does needs that",
            hint="start it as the person whose desktop it serves",
        )
    # Sockets and logs are ours alone from their first moment.
    os.umask(0o077)
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    paths = find_paths()
    shipped = Path(str(resources.files("broker") / "data" / "sandboxes.d"))
    options = Options(
        paths=paths,
        shipped=shipped if examples else None,
        allow_unjailed=unjailed,
    )
    pump = start_pump()
    trio.run(run_local, options, pump, _ready, strict_exception_groups=True)


def _ready() -> None:
    """Tell whoever started us that the control socket is up, sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address:
        if address.startswith("@"):
            address = "\0" + address[1:]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.sendto(b"READY=1\n", address)
    sys.stderr.write("vitrail-local: ready\n")


if __name__ == "__main__":
    main()
