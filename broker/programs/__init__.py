"""Each program readable top to bottom: the started processes and their parents.

Processes: pump and acceptor (acceptor); vitrail-access (accessible); authority
(authority); vitrail-devices (devices); fork server (fork_server); helpers
(helper_forks, keeper); host (host, local_host); vitrail-ingest (ingest); vitrail-local
before its fork, viewer, host (local, local_common, start); prompt agent (prompt);
security key (security_key); shipper (shipper); shipper in its jail (shipper_jailed);
viewer (viewer); worker (worker).
"""

from __future__ import annotations
