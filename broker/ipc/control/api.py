"""Types of the requests that ``brokerctl`` and other programs send to a broker.

The table of methods (``control.methods``) names them; the server and the clients of
``control`` carry them as varlink, interface ``io.vitrail.Broker``
(``broker/data/io.vitrail.Broker.varlink``; a test compares the two).

Requests come from programs of the same user, so they are trusted to ask, and
still checked: names are names only after ``core.names`` took them.  In a
request, a field that may be null may be left out.

brokerctl encodes requests and decodes answers; authority, viewer and host serve the
requests.
"""

from __future__ import annotations

# Every public name: a type is declared in one place.
from broker.core.authority_report import *
from broker.ipc.control.types.asking import *
from broker.ipc.control.types.base import *
from broker.ipc.control.types.clipboard_status import *
from broker.ipc.control.types.devices import *
from broker.ipc.control.types.folders import *
from broker.ipc.control.types.launches import *
from broker.ipc.control.types.leases import *
from broker.ipc.control.types.log import *
from broker.ipc.control.types.network import *
from broker.ipc.control.types.notifications import *
from broker.ipc.control.types.opening import *
from broker.ipc.control.types.running import *
from broker.ipc.control.types.sound import *
from broker.ipc.control.types.status import *
from broker.ipc.control.types.status_rows import *
from broker.ipc.control.types.windows import *
