"""Vocabulary without input or output: errors, limits, names, port table.

Processes: authority, vitrail-local, launcher, viewer, host, brokerctl
(authority_report, lease); most processes (decoding, errors, escape, framing, names,
paths, stderr_log, token_bucket); authority, viewer, switch (fair_share); worker,
brokerctl (key_verdicts); vitrail-local, launcher, viewer, host, brokerctl
(launch_changes); authority, viewer, host, brokerctl (notify); session children,
vitrail-local, launcher, viewer, host, brokerctl (process_status); authority, viewer,
prompt agent, brokerctl (prompt_words); authority, viewer, prompt agent, vitrail-access,
brokerctl (question); authority, session children, vitrail-local, launcher, viewer,
host, brokerctl (services); authority, viewer, brokerctl (sliding_window); session
children, viewer, worker, brokerctl (ssh_agent).
"""

from __future__ import annotations
