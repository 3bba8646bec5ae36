"""libvirt: its hook of ours, and the vsock of its domains.

Processes: brokerctl (domain, hook, throwaway).
"""
