"""What the shipper's jails show, by ``ship.toml`` and by the variables of the session."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.core.paths import Paths
from broker.helpers.shipper.config import (
    AnyTarget,
    JournaldTarget,
    JsonlTarget,
    OtlpTarget,
    PostgresTarget,
)
from broker.helpers.shipper.jail import ShipperJail, jails_of

_PATHS = Paths(Path("/run/v"), Path("/state"), Path("/cache"), (Path("/config"),))
_LOG = {f"/state/audit.sqlite{end}" for end in ("", "-wal", "-shm")}


def jails(*targets: AnyTarget, **variables: str) -> list[ShipperJail]:
    return jails_of(_PATHS, targets, {"HOME": "/home/u", **variables})


def shown(jail: ShipperJail) -> set[str]:
    return {*map(str, jail.read)} - _LOG


def test_receivers_of_this_machine_need_neither_network_nor_files() -> None:
    (jail,) = jails(JournaldTarget("a"), JsonlTarget("b", "/home/u/out.jsonl"))
    assert (jail.network, jail.unix) == (False, False)
    assert shown(jail) == set()
    assert jail.variables == {}


def test_a_collector_has_its_certificates() -> None:
    target = OtlpTarget(
        "a", "https://c/", ca="/ca", certificate="/cert", key="relative"
    )
    (jail,) = jails(target, SSL_CERT_FILE="/certs", PGPASSWORD="hunter2")
    assert (jail.network, jail.unix) == (True, False)
    assert shown(jail) == {"/ca", "/cert", "/certs"}
    assert jail.variables == {"SSL_CERT_FILE": "/certs"}


def test_a_database_on_the_network_has_libpqs_files() -> None:
    pytest.importorskip("psycopg")
    target = PostgresTarget(
        "a", "postgresql://h/d?sslmode=verify-full&sslrootcert=%2Froot&passfile=/pass"
    )
    (jail,) = jails(target, PGSSLKEY="/key", PGPASSWORD="hunter2", PGHOST="other")
    assert (jail.network, jail.unix) == (True, False)
    home = {"/home/u/.pgpass", "/home/u/.postgresql"}
    assert shown(jail) == {"/root", "/pass", "/key"} | home
    assert jail.variables.keys() == {"HOME", "PGUSER", "PGSSLKEY", "PGPASSWORD"}
    # Every user of this machine may read the command line.
    assert "hunter2" not in str(jail.words(3))


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("host=/sockets dbname=d", "/sockets/.s.PGSQL.5432"),
        ("host=/a,/sockets port=1,2 dbname=d", "/sockets/.s.PGSQL.2"),
        ("dbname=d", "/run/postgresql/.s.PGSQL.5432"),
        ("postgresql://%2Fsockets/d", "/sockets/.s.PGSQL.5432"),
    ],
)
def test_a_database_behind_a_socket_has_a_jail_of_its_own(
    address: str, place: str
) -> None:
    pytest.importorskip("psycopg")
    far, near = jails(PostgresTarget("a", address), OtlpTarget("b", "https://c/"))
    assert (far.network, far.unix) == (True, False)
    assert place not in shown(far)
    assert (near.network, near.unix) == (False, True)
    assert place in shown(near)
    assert str(Path(place).parent) not in shown(near)


def test_a_file_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    ca = tmp_path / "ca"
    (jail,) = jails(OtlpTarget("a", "https://c/", ca=str(ca)))
    without = jail.watched()
    ca.write_text("1")
    first = jail.watched()
    (tmp_path / "fresh").write_text("2")
    (tmp_path / "fresh").replace(ca)
    assert len({without, first, jail.watched()}) == 3
