"""TLS is left out of processes that never speak it.

trio imports ``ssl`` for streams that no broker opens.  OpenSSL's tables cost each process
a megabyte, and its code is nothing that a process should have which a sandbox may attack.

A broker's program and brokerctl call it before they import trio.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

_NAME = "ssl"


def leave_out_tls() -> None:
    """Have ``import ssl`` give an empty module, if nothing has imported it yet.

    To be called before trio is imported.  Use of TLS in this process is an error then:
    an AttributeError that says so.
    """
    if _NAME in sys.modules:
        return
    module = ModuleType(_NAME, "Left out: this process does not speak TLS.")
    module.__spec__ = ModuleSpec(_NAME, None)  # read at each further import
    module.__dict__["__getattr__"] = _absent
    sys.modules[_NAME] = module


def _absent(name: str) -> object:
    raise AttributeError(
        f"ssl.{name} is used in a process that was started without TLS"
    )
