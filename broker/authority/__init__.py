"""May it: rules, grants, questions, the audit log and the control socket.

Processes: authority, viewer (file_watch); authority, brokerctl (lockdown); authority,
vitrail-local before its fork, viewer, host (options); authority, viewer, brokerctl
(permit).
"""

from __future__ import annotations
