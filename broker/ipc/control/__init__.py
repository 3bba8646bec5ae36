"""The varlink service that brokerctl and other programs talk to.

Processes: brokerctl (answers, blocking, blocking_connection, client); authority,
viewer, brokerctl (api, methods); authority, vitrail-local, launcher, viewer, host
(dispatch, forwarded_frames); viewer, host (fitting); vitrail-local, launcher, viewer,
host (forward); authority, session children, vitrail-local, launcher, viewer, host
(forwarded); authority (forwarder, varlink_service); authority, vitrail-local, launcher,
viewer, host, brokerctl (host_methods, launch_methods, method, varlink); authority,
viewer, host, brokerctl (shared_methods).
"""

from __future__ import annotations
