"""Vocabulary without input or output: errors, limits, names, port table.

Processes: authority, viewer, host, brokerctl (authority_report, lease, notify,
services); most processes (decoding, errors, escape, paths, stderr_log, token_bucket);
authority, viewer, switch (fair_share); authority, viewer, host, worker, flowguard,
brokerctl (framing); worker, brokerctl (key_verdicts); viewer, host, brokerctl
(launch_changes, process_status); authority, viewer, host, vitrail-devices, brokerctl
(names); authority, viewer, prompt agent, vitrail-access, brokerctl (prompt_words,
question); authority, viewer, brokerctl (sliding_window); viewer, worker, brokerctl
(ssh_agent).
"""

from __future__ import annotations
