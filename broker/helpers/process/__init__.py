"""Starting processes: spawn, jail, seccomp, identity.

Processes: viewer, host, brokerctl (core_files, fork_client, jail_libraries, memory,
pidfd); helpers, fork server (fork_server); brokerctl (gate); most processes (hardening,
libseccomp, popen, process_name, seccomp); host, brokerctl (identity); fork server
(jail); viewer, brokerctl (namespace_limits, tool_jail); authority, prompt agent,
vitrail-access, screen frame, shipper, launch tools (program_files); viewer, host,
shipper, folder mounts, launch tools, brokerctl (program_filters); host (removal);
viewer, host, shipper, launch tools in their jail, brokerctl (spawn).
"""
