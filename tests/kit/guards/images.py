"""The guards of images from elsewhere.

``python -m tests.kit.guards.images [NAME…]`` turns each off in a copy.
"""

from __future__ import annotations

from tests.kit.guards.mutation import Guard, main

_TREE = "tests/broker/cli/images/foreign_images/test_tree.py"
_ARCHIVE = "tests/broker/cli/images/foreign_images/test_archive.py"
_SIGNED = "tests/broker/cli/images/foreign_images/test_signed.py"
_DOWNLOAD = "tests/broker/cli/images/foreign_images/test_download.py"
_KERNEL = "tests/broker/cli/images/foreign_images/test_kernel.py"
_FILES = "tests/broker/host/images/test_host_files.py"
_TOOLS = "tests/attack/test_image_tools.py"
_HOST = "tests/broker/cli/images/foreign_images/test_hostroot.py"

GUARDS = (
    Guard("the name of a package is not an expression", "special: set[str] = set()", "tests/broker/cli/images/building/test_build.py", "no_expression"),
    Guard("no image removes a package", "_PACKAGE = re.compile('[a-z0-9][a-z0-9+.-]{1,100}')", "tests/broker/host/images/test_store.py"),
    Guard("a layer's names stay below its root", "if False:", _TREE, "with_dots"),
    Guard("a hard link is to a file of the tree", "if False:", _TREE, "hard_links_are"),
    Guard("a layer's files are within the limit", "if False:", _TREE, "is_a_lie"),
    Guard("a layer has a limit of names", "if False:", _TREE, "counts_as_a_name"),
    Guard("a layer that grows without end is refused", "if False:", _ARCHIVE, "grows_without_end"),
    Guard("a blob has its own digest", "if False:", _ARCHIVE, "another_digest"),
    Guard("a merge gives a file, and no link to one", "if False:", _ARCHIVE, "taken_over and root.tar"),
    Guard("a file system is made in a jail", "return list(argv)", _TOOLS, "reads_no_home"),
    Guard("a file system is a file, and no link to one", "if False:", _TOOLS, "persons_a_disk"),
    Guard("a header of a root that claims gigabytes takes no memory", "", _TOOLS, "claims_gigabytes"),
    Guard("an image is signed by the key that was named", "pass", _SIGNED, "another_key"),
    Guard("a signed image has the files that were signed", "if False:", _SIGNED, "not_signed"),
    Guard("a signed image has the digest that was named", "if False:", _DOWNLOAD, "another_digest"),
    Guard("a signed image is replaced by one of the same key", "if False:", _DOWNLOAD, "another_signer"),
    Guard("an older signed image does not replace a newer one", "if False:", _DOWNLOAD, "older_image"),
    Guard("a download has a limit", "if False:", _DOWNLOAD, "over_the_limit"),
    Guard("a download without a length has a limit", "if False:", _DOWNLOAD, "over_the_limit"),
    Guard("a server that sends too slowly ends a download", "with trio.fail_after(5):", _DOWNLOAD, "too_slow"),
    Guard("a download that ends wakes its reader", "pass", _DOWNLOAD, "dripping"),
    Guard("a download that begins again has not continued", "failures = 0 if size >= _GAIN else failures + 1", _DOWNLOAD, "again_and_again"),
    Guard("a file that begins again is checked again", "", _DOWNLOAD, "checked_again"),
    Guard("a version is sent back as it came", "if not strong:", _DOWNLOAD, "not_plain"),
    Guard("the body of a redirect is not read", "", _DOWNLOAD, "body_of_a_redirect"),
    Guard("an import checks the image that is present when its turn comes", "", _DOWNLOAD, "that_waited"),
    Guard("a signed image has regular files only", "if False:", "tests/broker/cli/images/foreign_images/test_signed.py", "into_memory"),
    Guard("a download does not leave an encrypted connection", "if False:", _DOWNLOAD, "encrypted_connection"),
    Guard("the name of a container image is one word of its Containerfile", "if False:", "tests/broker/cli/images/building/test_build_tools.py", "is_not_one"),
    Guard("a container that builds is not root's", "if False:", "tests/broker/cli/images/building/test_build_tools.py", "of_root"),
    Guard("a container that builds ends with the build", "if False:", "tests/broker/cli/images/building/test_build_tools.py", "is_cancelled"),
    Guard("an archive of a container is a file, and no link to one", "if False:", "tests/broker/cli/images/building/test_build_tools.py", "in_place_of_archives"),
    Guard("a kernel is made of files of its packages, and of no links", "if False:", "tests/broker/cli/images/building/test_build_tools.py", "bring_no_file"),
    Guard("a kernel package is read in a jail", "jail: list[str] = []", _KERNEL, "of_packages"),
    Guard("the files of a kernel package have a limit", "limit = 'true'", _KERNEL, "more_than_the_limit"),
    Guard("a module has a limit of bytes", "if True:", _KERNEL, "unusable_kernel"),
    Guard("no program of the host's has a set-user-ID bit in a guest", "mode = found.st_mode", _HOST, "set_user_id"),
    Guard("a private key beside a root stays on the host", "", _FILES, "private_key"),
)  # fmt: skip

if __name__ == "__main__":
    main(GUARDS)
