"""bubblewrap: a sandbox of namespaces alone, on the host's own programs.

Processes: host, brokerctl (answer); brokerctl (arguments, command, process,
subordinate).
"""
