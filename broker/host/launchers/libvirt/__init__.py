"""libvirt: our hook, and the vsock of its domains.

Processes: brokerctl (domain, hook, throwaway).
"""
