"""Directories of the user's in a sandbox: opened safely, mounted, unmounted.

Processes: folder mounts, brokerctl (binding); session children, brokerctl (bound_files,
opened); vitrail-local, launcher, viewer, host, brokerctl (mounts); session children,
vitrail-local, launcher, viewer, host, brokerctl (namespaces); session children,
vitrail-local, launcher, viewer, host, folder mounts, brokerctl (tool).
"""
