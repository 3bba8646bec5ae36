"""Starting processes: spawn, jail, seccomp, identity.

Processes: vitrail-local, before it is confined, viewer, host, brokerctl (core_files,
fork_client, pidfd); session children, vitrail-local, before it is confined, viewer,
host, fork server (fork_command); helpers, fork server (fork_server); vitrail-local,
before it is confined, viewer, host (fork_start); brokerctl (gate, tool_jail); most
processes (hardening, libseccomp, polled, popen, process_name, program_files, seccomp);
host, brokerctl (identity); fork server (jail); session children, host, brokerctl
(jail_libraries); session children, vitrail-local, before it is confined, viewer, host
(memory); session children, brokerctl (memory_file, namespace_limits); session children,
host, shipper, folder mounts, launch tools, brokerctl (program_filters); host (removal);
vitrail-local, before it is confined, viewer, host, shipper, launch tools in their jail,
brokerctl (spawn).
"""
