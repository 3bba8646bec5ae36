"""The varlink service that brokerctl and other programs talk to.

Processes: brokerctl (answers, blocking, blocking_connection, client); authority,
viewer, brokerctl (api, methods); authority, vitrail-local, before it is confined,
viewer, host (dispatch, forwarded_frames); viewer, host (fitting); vitrail-local, before
it is confined, viewer, host (forward); authority, session children, vitrail-local,
before it is confined, viewer, host (forwarded); authority (forwarder, varlink_service);
authority, vitrail-local, before it is confined, viewer, host, brokerctl (host_methods,
method, varlink); authority, viewer, host, brokerctl (launch_methods, shared_methods).
"""

from __future__ import annotations
