"""Format an image for output."""

from __future__ import annotations

from broker.cli import render
from broker.host.images.store import Image


def age_text(seconds: float) -> str:
    """Return an age as text, in days if it is more than two."""
    return (
        f"{seconds / 86400:.0f} days" if seconds > 172800 else render.seconds(seconds)
    )


def describe(image: Image) -> dict[str, object]:
    """Return an image's fields as a JSON object."""
    manifest = image.manifest
    return {
        "name": image.name,
        "suite": image.suite,
        "built": manifest.built,
        "age_seconds": image.age(),
        "bytes": image.disk_bytes(),
        "waypipe": image.waypipe,
        "kernel": manifest.kernel,
        "digest": manifest.digest,
        "packages": list(manifest.spec.all_packages),
        "directory": str(image.directory),
    }
