"""One folder for each launch kind.

A launcher's half here runs in the host, or in brokerctl for the kinds that brokerctl
starts (boxes, containers, Flatpak, vmspawn, libvirt's throwaway domains): each module
says which.
"""

from __future__ import annotations
