"""Directories of the user's in a sandbox: opened safely, mounted, unmounted.

Processes: folder mounts, brokerctl (binding); session children, brokerctl (bound_files,
opened); vitrail-local, before it is confined, viewer, host, brokerctl (mounts); session
children, vitrail-local, before it is confined, viewer, host, brokerctl (namespaces);
session children, vitrail-local, before it is confined, viewer, host, folder mounts,
brokerctl (tool).
"""
