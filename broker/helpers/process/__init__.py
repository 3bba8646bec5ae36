"""Starting processes: spawn, jail, seccomp, identity.

Processes: viewer, host, brokerctl (core_files, fork_client, jail_libraries, memory,
pidfd); helpers, fork server (fork_server); brokerctl (gate); most processes (hardening,
libseccomp, process_name, seccomp); host, brokerctl (identity); fork server (jail);
viewer, brokerctl (namespace_limits, tool_jail); helpers, viewer, host, shipper, launch
tools, brokerctl (popen); viewer, host, shipper, folder mounts, brokerctl
(program_filters); host (removal); viewer, host, shipper, launch tools, brokerctl
(spawn).
"""
