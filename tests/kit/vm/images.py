"""Guest images that more than one test or benchmark uses, so that they are built once."""

from __future__ import annotations

from broker.host.images.store import DEFAULT_PACKAGES, ImageSpec

LINKS_IMAGE = ImageSpec(
    name="links", packages=(*DEFAULT_PACKAGES, "netsurf-gtk", "socat")
)
"""With a browser that is light enough for an emulated machine, and a relay."""
