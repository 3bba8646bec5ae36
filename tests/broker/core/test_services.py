"""The port table."""

from __future__ import annotations

import re

from broker.core import services


def test_one_port_for_each_service():
    """No two share one, and the way back is the same table."""
    assert len(services.SERVICES) == len(services.LINK_PORTS)
    for service, port in services.LINK_PORTS.items():
        assert services.SERVICES[port] == service


def test_ports_can_be_had_and_written():
    """Above 1023 for an unprivileged broker, five digits at most in a path."""
    for port in services.PORTS.values():
        assert 1023 < port < 65536


def test_names_are_of_one_form():
    """As Qubes writes them, so that rules can name them."""
    for service in services.PORTS:
        assert re.fullmatch(r"vitrail\.[A-Z][A-Za-z]*", service)


def test_cids_that_are_never_peers():
    """Hypervisor, loopback, host and ANY lie outside the range of sandboxes."""
    assert frozenset({0, 1, 2, 0xFFFFFFFF}) == services.NEVER_PEERS
    for cid in services.NEVER_PEERS:
        assert not services.FIRST_CID <= cid < services.CID_ANY
    assert services.FIRST_CID == 3
