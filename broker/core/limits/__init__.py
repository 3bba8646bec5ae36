"""Every limit of the brokers: name, unit, reason.  Tested at N and N + 1.

A limit that only one protocol knows stands here too, so that one folder tells
how much a hostile sandbox can make us hold.

Callers write ``limits.NAME``, whatever module of the folder it is in.  The modules
``audit``, ``authority``, ``clipboard``, ``devices``, ``host_viewer``,
``network``, ``notifications``, ``pulse``, ``relay``, ``ssh_agent`` and ``waypipe`` are imported by name, because the
authority, the jail or the host part does without them (``tests/test_layout.py``).
"""

from __future__ import annotations

from broker.core.limits.control import *  # noqa: F403
from broker.core.limits.link import *  # noqa: F403
from broker.core.limits.machines import *  # noqa: F403
from broker.core.limits.peers import *  # noqa: F403
from broker.core.limits.transfer import *  # noqa: F403
from broker.core.limits.wayland import *  # noqa: F403
