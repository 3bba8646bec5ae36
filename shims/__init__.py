"""Programs of the guest: standard library only, each shipped as one file.

Processes: viewer, host, brokerctl (bundle); libvirt's hook (vitrail_libvirt_hook); OCI
hook (vitrail_oci_hook, vitrail_oci_rootful).
"""

from __future__ import annotations
