"""Filters of system calls: how they are made, and which process has which.

Processes: session children, shipper, folder mounts, launch tools, brokerctl
(box_filters); helpers, brokerctl (carrying_filters); most processes (descriptor_filter,
libseccomp, seccomp); helpers, prompt agent, vitrail-access, screen frame
(keeper_filter, session_filters); session children, host, shipper, folder mounts, launch
tools, brokerctl (program_filters); helpers (viewer_filter).
"""
