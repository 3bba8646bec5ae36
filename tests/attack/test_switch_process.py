"""A port that comes without its descriptor ends the switch, and everybody's network."""

from __future__ import annotations

import socket
import threading

from broker.host.network.addresses import LAN
from broker.host.network.switch.process import SwitchProcess
from broker.host.network.switch.switch_ports import PortRole, pack_port


def test_a_port_whose_descriptor_was_lost_ends_no_other():
    """recvmsg(2) leaves it out where the process may open no more, or has no memory."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    network = bytes(map(int, LAN.split(".")))
    ended = []
    switch = SwitchProcess(theirs, network)

    def run() -> None:
        switch.run()
        ended.append("with its socket")

    thread = threading.Thread(target=run)
    thread.start()
    with theirs:
        ours.send(pack_port(network + b"\2", PortRole.MEMBER, "work"))
        ours.close()
        thread.join(60)
    assert ended == ["with its socket"]
