"""This machine's name servers, as resolv.conf(5) names them, and sockets to them.

The host opens sockets to them for passt and the packet guard, whose child for names
follows the file; brokerctl has the file's path only.
"""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

from broker.core.errors import SetupError
from broker.core.limits import network as limits

RESOLV_CONF = Path("/etc/resolv.conf")
_FILE_BYTES = 1 << 16
_SEARCHED, _SEARCHED_CHARACTERS = 6, 256
"""Maximum number of search domains, and of their characters (MAXDNSRCH of resolv.h, and
resolv.conf(5) of glibc before 2.26): a kernel's command line has 2,048 in all."""
_DOMAIN = re.compile(r"(?!.{254})[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?\.?")


def read_resolv_conf(path: Path = RESOLV_CONF) -> str:
    """Return its text; empty, as for the C library, if it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        return os.read(fd, _FILE_BYTES).decode(errors="replace")
    except OSError:
        return ""
    finally:
        os.close(fd)


def search_domains(resolv_conf: str) -> list[str]:
    """Return the domains in which a name without a dot is looked up (resolv.conf(5)).

    The last ``search`` or ``domain`` line counts.  Texts that are not domain names, and
    the root, are left out: the list goes into files and onto a kernel's command line.
    """
    domains: list[str] = []
    for line in resolv_conf.splitlines():
        match line.split():
            case ["search" | "domain" as option, *names]:
                domains = names if option == "search" else names[:1]
            case _:
                pass
    domains = [name for name in domains if _DOMAIN.fullmatch(name)][:_SEARCHED]
    # guard: a long search list does not cut a kernel's command line
    while len(" ".join(domains)) > _SEARCHED_CHARACTERS:
        domains.pop()
    return domains


def resolver_sockets(resolv_conf: Path = RESOLV_CONF) -> list[socket.socket]:
    """Connect a socket to each name server of this machine; return them.

    Raises SetupError if none exists.
    """
    return sockets_of(read_resolv_conf(resolv_conf), resolv_conf)


def sockets_of(text: str, resolv_conf: Path) -> list[socket.socket]:
    """Connect a socket to each name server of a resolv.conf's text; return them.

    Raises SetupError if none exists.
    """
    lines = text.splitlines()
    named = [line.split()[1] for line in lines if line.startswith("nameserver ")]
    servers = named[: limits.NAME_SERVERS] or ["127.0.0.1"]  # resolv.conf(5)
    found: list[socket.socket] = []
    problem = ""
    for server in servers:
        try:
            found.append(_connected(server))
        # guard: a name server of IPv6, where there is none, is left out
        except OSError as error:
            problem = f"cannot use the name server {server}: {error.strerror}"
    if not found:
        raise SetupError(problem, hint=f"check the name servers in {resolv_conf}")
    return found


def _connected(server: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        sock.connect((server, 53))
    except OSError:
        sock.close()
        raise
    return sock
