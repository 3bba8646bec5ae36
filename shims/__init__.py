"""Programs of guests, hooks of launchers and an auditor's tool, one file each.

They use Python's standard library only.

Processes: session children, vitrail-local before its fork, viewer, host, brokerctl
(bundle); libvirt's hook (vitrail_libvirt_hook); OCI hook (vitrail_oci_hook,
vitrail_oci_rootful).
"""

from __future__ import annotations
