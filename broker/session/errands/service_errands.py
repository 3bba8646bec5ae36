"""The user's services that a sandbox may call: programs, secrets, agents, ports.

Imported here: a child needs only one module of these.

A session child starts a service, reads a secret, connects to the ssh agent or a port,
or listens on one.
"""

from __future__ import annotations

from broker.core.errors import InternalError
from broker.ipc.session import service_orders as m
from broker.session.errand import Errand


def carry_out_service(errand: Errand, order: m.ServiceOrder) -> None:
    """Carry out an order about a service.  Raises VitrailError, OSError."""
    match order:
        case m.ConnectPort():
            from broker.session.loopback_ports import connect_port

            connect_port(errand, order)
        case m.ListenPort():
            from broker.session.loopback_ports import listen_port

            listen_port(errand, order)
        case m.AskSecret():
            from broker.session.secrets import ask_secret

            ask_secret(errand, order)
        case m.StartService():
            from broker.session.calls import start_service

            start_service(errand, order)
        case m.UseAgent():
            from broker.session.ssh.agent_use import use_agent

            use_agent(errand, order)
        case m.AcceptConnection() | m.ServeNow() | m.AskAgent() | m.NameHost():
            raise InternalError("the order belongs to another one")
