"""Directories of the user's in a sandbox: opened safely, mounted, unmounted.

Processes: folder mounts, brokerctl (binding); session children, brokerctl (bound_files,
opened); vitrail-local before its fork, viewer, host, brokerctl (mounts); session
children, vitrail-local before its fork, viewer, host, brokerctl (namespaces); session
children, vitrail-local before its fork, viewer, host, folder mounts, brokerctl (tool).
"""
