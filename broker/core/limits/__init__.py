"""Every limit of the brokers: name, unit, reason.  Tested at N and N + 1.

A limit that only one protocol knows is here too, so that one folder shows
how much a hostile sandbox can make us hold.

Callers write ``limits.NAME`` for those that most processes know.  The other modules are
imported by name: a process has the limits of its work (``tests/test_layout.py``).
"""

from __future__ import annotations

from broker.core.limits.control import *  # noqa: F403
from broker.core.limits.machines import *  # noqa: F403
from broker.core.limits.peers import *  # noqa: F403
