"""Files: replaced whole, trees that are removed, logs that stay short, links refused.

Processes: session children, vitrail-local before its fork, viewer, host, brokerctl
(opened_folder); session children, brokerctl (planted_links); most processes
(replace_file); viewer, host (sandbox_logs); vitrail-local before its fork, viewer,
host, shipper, worker, brokerctl (tmpfs); vitrail-local before its fork, viewer, host,
brokerctl (trees).
"""

from __future__ import annotations
