"""The program that merges an OCI archive into one clean tar archive, in a jail.

brokerctl starts it for an import.

``merge.py REQUEST``: a JSON object with ``archive``, ``work`` (where layers and
``root.tar`` go), ``agent``, ``architecture`` and ``limit`` in bytes.  Prints a JSON
object: the result, or ``error`` and ``missing``.  Standard library only.
"""

from __future__ import annotations

import json
import lzma
import resource
import sys
import tarfile
import zlib
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from broker.cli.images.foreign_images.archive import ArchiveError, OciArchive
from broker.cli.images.foreign_images.furnish import MissingError, furnish, versions
from broker.cli.images.foreign_images.kernel import write_boot
from broker.cli.images.foreign_images.layers import apply_layer, write_tree
from broker.cli.images.foreign_images.tree import FileTree, TreeError
from broker.core.errors import UpstreamError

MEMORY = 2 << 30
"""Address space: 300,000 names take a quarter of it, a header that claims to be
gigabytes long none."""

UNREADABLE = (
    tarfile.TarError,
    EOFError,
    OverflowError,
    ValueError,
    RecursionError,
    lzma.LZMAError,
    zlib.error,
    OSError,
)
"""Errors of the readers of layers and kernels."""


# An image from elsewhere is merged as names, and never unpacked. A container image is a
# list of tar archives of a stranger, and every tool that unpacks such layers has had
# its `..`, its link out of the directory, or its hard link to a file of the host.
# Unpacking in a jail would confine these; not unpacking removes them: the layers become
# a tree of names in memory, links are followed inside that tree only, and one clean
# archive is written, of which genext2fs makes the file system, as it does for our own
# images. The reader is Python's tarfile, so it runs in a jail nevertheless, with a
# limit of memory: a header may claim any size.
# * Kernel and initramfs are those of an image built here, because most containers have
#   none; or the user names a kernel, and the initramfs is made here, of its modules.
# * A signed image is checked before it is parsed: the signature is over the manifest's
#   bytes, and these have the digest of the rest. The key is named by the user at each
#   import; a list of trusted keys would be one more file to protect.
def merge(request: dict[str, Any]) -> dict[str, Any]:
    """Write ``root.tar``; return digest, versions and the omissions."""
    work = Path(request["work"])
    tree = FileTree(request["limit"])
    dropped: Counter[str] = Counter()
    with ExitStack() as files:
        archive = OciArchive(files.enter_context(Path(request["archive"]).open("rb")))
        digest, manifest = archive.manifest(request["architecture"])
        room = request["limit"]
        for number, layer in enumerate(archive.layers(manifest)):
            path = work / f"layer-{number}"
            file = files.enter_context(path.open("x+b"))
            # Without a name: it goes when we do, also when we are killed.
            path.unlink()
            room -= archive.unpack(layer, file, room)
            file.seek(0)
            tar = files.enter_context(tarfile.open(fileobj=file, mode="r:"))
            apply_layer(tree, tar, dropped)
        furnish(tree, Path(request["agent"]).read_bytes())
        boot = request["boot"]
        try:
            release = write_boot(tree, boot, work) if boot else ""
        except (TreeError, UpstreamError, *UNREADABLE) as error:
            return {"kernel_error": str(error)}
        with (work / "root.tar").open("xb") as out:
            count = write_tree(tree, out)
        return {
            "kernel": release,
            "digest": digest,
            "entries": count,
            "versions": versions(tree),
            "dropped": dict(dropped),
        }


def main() -> int:
    """Merge the layers named on the command line; print the result as JSON."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        result = merge(json.loads(sys.argv[1]))
    except MissingError as error:
        result = {"missing": str(error)}
    except (ArchiveError, TreeError) as error:
        result = {"error": str(error)}
    except UNREADABLE as error:
        result = {"error": f"cannot read a layer: {error}"}
    except MemoryError:
        result = {"error": "reading the layers needs more memory than allowed"}
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
