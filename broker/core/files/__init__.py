"""Files: replaced whole, trees that are removed, logs that stay short, links refused.

Processes: viewer, host, brokerctl (opened_folder, trees); viewer, brokerctl
(planted_links); most processes (replace_file); viewer, host (sandbox_logs); viewer,
host, shipper, worker, brokerctl (tmpfs).
"""

from __future__ import annotations
