"""``vitrail-ingest``: takes signed batches of all machines into a fleet's database."""

from __future__ import annotations

import argparse
import signal
import sys

import trio

from broker.core.errors import VitrailError
from broker.fleet.ingest_database import IngestStore
from broker.fleet.server import IngestLimits, IngestServer, server_context
from broker.ipc.in_thread import in_thread


def main() -> None:
    """Parse options, and serve batches until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="vitrail-ingest", description=__doc__)
    parser.add_argument(
        "--store",
        required=True,
        help="database address (postgresql://…) of the ingest role",
    )
    parser.add_argument("--listen", default="127.0.0.1", help="address (127.0.0.1)")
    parser.add_argument("--port", type=int, default=4319, help="port (4319)")
    parser.add_argument(
        "--certificate", default="", help="PEM file of the certificate; enables TLS"
    )
    parser.add_argument("--key", default="", help="PEM file of its key")
    parser.add_argument(
        "--client-ca", default="", help="PEM file of the CA of machines' certificates"
    )
    parser.add_argument(
        "--threads", type=int, default=8, help="number of connections to the store"
    )
    words = parser.parse_args()
    if not words.certificate and words.listen not in {"127.0.0.1", "::1", "localhost"}:
        parser.error("listening on a non-local address needs --certificate")
    try:
        trio.run(_serve, words)
    except (VitrailError, OSError) as error:
        sys.exit(f"vitrail-ingest: {error}")


async def _serve(words: argparse.Namespace) -> None:
    """Serve batches of machines until a signal ends the program."""
    store = IngestStore(words.store)
    await in_thread(store.check)
    context = None
    if words.certificate:
        context = server_context(words.certificate, words.key, words.client_ca)
    server = IngestServer(store, IngestLimits(threads=words.threads))
    async with trio.open_nursery() as nursery:
        port = await nursery.start(server.serve, words.listen, words.port, context)
        sys.stdout.write(f"listening on {port}\n")
        sys.stdout.flush()
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
    store.close()


if __name__ == "__main__":
    main()
