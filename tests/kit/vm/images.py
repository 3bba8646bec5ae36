"""Guest images that more than one test or benchmark uses, so that they are built once."""

from __future__ import annotations

from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec

LINKS_IMAGE = ImageSpec(
    name="links", packages=(*DEFAULT_PACKAGES, "netsurf-gtk", "socat")
)
"""With a browser that is light enough for an emulated machine, and a relay."""

CALLS_IMAGE = ImageSpec(
    name="calls", packages=(*DEFAULT_PACKAGES, "openssh-client", "poppler-utils")
)
"""With programs that use keys and read documents."""

ROUTER_IMAGE = ImageSpec(
    name="router",
    packages=(
        *DEFAULT_PACKAGES,
        *("wireguard-tools", "openvpn", "nftables", "iproute2", "dnsmasq-base"),
    ),
)
"""With what makes tunnels and forwards packets."""
