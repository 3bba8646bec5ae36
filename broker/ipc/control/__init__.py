"""The varlink service that brokerctl and other programs talk to.

Processes: brokerctl (answers, blocking, blocking_connection, client); authority,
viewer, brokerctl (api, launch_methods, methods); authority, viewer, host (dispatch, forwarded,
forwarded_frames); viewer, host (fitting, forward); authority (forwarder,
varlink_service); authority, viewer, host, brokerctl (host_methods, method,
shared_methods, varlink).
"""

from __future__ import annotations
