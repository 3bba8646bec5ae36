"""Starting processes: spawn, jail, seccomp, identity.

Processes: vitrail-local, launcher, viewer, host, brokerctl (core_files, fork_client,
fork_handle, pidfd); helpers, fork server (fork_server); brokerctl (gate, tool_jail);
most processes (hardening, polled, popen, process_name, program_files); host, brokerctl
(identity); fork server (jail); session children, host, brokerctl (jail_libraries);
session children, vitrail-local, launcher, viewer, host (memory); session children,
brokerctl (memory_file, namespace_limits); host (removal); vitrail-local, launcher,
viewer, host, shipper, launch tools in their jail, brokerctl (spawn).
"""
