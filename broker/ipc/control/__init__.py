"""The varlink service that brokerctl and other programs talk to.

Processes: authority, brokerctl (answers); authority, viewer, brokerctl (api, methods);
brokerctl (blocking, blocking_connection, client); authority, vitrail-local before its
fork, viewer, host (dispatch, forwarded_frames); viewer, host (fitting); vitrail-local
before its fork, viewer, host (forward); authority, session children, vitrail-local
before its fork, viewer, host (forwarded); authority (forwarder, varlink_service);
authority, vitrail-local before its fork, viewer, host, brokerctl (host_methods,
launch_methods, method, varlink); authority, viewer, host, brokerctl (shared_methods).
"""

from __future__ import annotations
