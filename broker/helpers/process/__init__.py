"""Starting processes: spawn, jail, seccomp, identity.

Processes: viewer, host, brokerctl (core_files, jail_libraries); viewer, host
(fork_client, memory, pidfd); acceptor, fork server, keeper (fork_server); brokerctl
(gate); authority, prompt agent, vitrail-access, screen frame, fork server, keeper
(hardening); host, brokerctl (identity); fork server (jail); most processes (libseccomp,
process_name, seccomp); viewer, brokerctl (namespace_limits, tool_jail); starter,
viewer, host, shipper, launch tools, brokerctl (popen); viewer, host, shipper, folder
mounts, brokerctl (program_filters); host (removal); viewer, host, shipper, launch
tools, brokerctl (spawn).
"""
