"""The hook by which Podman and libvirt report to Vitrail's broker.

Standard library only, Python 3.9.
"""
