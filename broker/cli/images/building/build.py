"""Build a guest image: mmdebstrap, an ext2 file, an initramfs, a manifest.

Needs no root.  mmdebstrap builds in a user namespace and hands out a tar
archive with the right owners; genext2fs makes the file system from that
archive, so none of our steps needs a namespace, a mount or a loop device.  (The
guest mounts it with the ext4 driver.  mke2fs -d would read a directory, and
takes change times and the order of entries from it: never the same twice.)

Equal package versions give equal bytes: times are those of ``EPOCH``, orders
are sorted, random values and those of the building machine are removed.

Everything is made in a directory beside the images and renamed at the end.  A
build that is killed leaves that and a scratch directory, which the next build
of the same name removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path

import trio

from broker.cli import render
from broker.cli.images import installed, x11_needs
from broker.cli.images.building import files
from broker.cli.images.building.build_room import (
    Progress,
    check_machine,
    disk_full_explained,
    drop_scratch,
    make_scratch,
    need_space,
    only_build,
    remove_leftovers,
    says_no_space,
)
from broker.cli.images.building.build_tools import (
    NATIVE_TOOLS,
    BuildTools,
    open_tools,
)
from broker.core import limits
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.core.escape import printable
from broker.core.paths import Paths
from broker.helpers.process.spawn import spawn
from broker.host.images import store
from broker.host.images.packages import Archive, find_archive
from broker.host.images.store import Image, ImageSpec, Manifest
from broker.ipc.in_thread import in_thread
from shims.bundle import guest_agent

EPOCH = 1_600_000_000
"""Newest time of a file in an image (SOURCE_DATE_EPOCH): a constant, because
any date that follows the archive would change an image whose packages have
not changed."""

_HOME = "/usr/lib/vitrail"
# Without mmdebstrap's lines about its hooks, directories and keys.
_STEP = re.compile(r"I: (?!running |removing |finding )(.*)\.\.\.")
_STEP_WORDS = {
    "downloading packages with apt": "downloading packages",
    "extracting archives": "unpacking packages",
    "installing remaining packages inside the chroot": "installing packages",
}
"""Steps of mmdebstrap in the user's words; others are as it says them."""
_FAILED_PACKAGE = re.compile(
    r"^dpkg: error processing (?:package|archive) (?:\S*/)?(\S+) [^\n]*:\n ([^\n]+)",
    re.MULTILINE,
)
_LAST_LINES = 200
# Values that packages draw while they are installed, and that every machine of the
# image would share.  Not in customize.sh: the agent removes host keys at each start, so
# an image that was built before needs no new build.
# guard: an image has no key that was drawn while it was built
_DRAWN: tuple[str, ...] = (
    "etc/ssh/ssh_host_*",
    "etc/ssl/private/ssl-cert-snakeoil.key",
    "etc/ssl/certs/ssl-cert-snakeoil.pem",
    "var/lib/dbus/machine-id",
    "var/lib/systemd/random-seed",
)
_UNNEEDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/info/*")


async def build_image(
    paths: Paths,
    spec: ImageSpec,
    progress: Progress,
    *,
    force: bool = False,
    container: str = "",
) -> Image:
    """Make an image, or return the one there is if it was made of the same.

    Podman builds in the container image ``container``.  Without a name, this machine's
    programs build if they are installed.  Waits while another build of this name runs.

    Raises SetupError when the machine lacks something (the hint says what),
    UpstreamError when a tool fails; in both cases the image there was before is still
    there.
    """
    paths.images.mkdir(parents=True, exist_ok=True)
    async with only_build(paths.images / f".{spec.name}.lock", progress):
        with contextlib.suppress(SetupError):
            present = store.find_image(paths, spec.name)
            if not force and installed.is_made_of(present.manifest, spec):
                return present
        await remove_leftovers(paths, spec.name)
        container = await check_machine(container)
        work = Path(tempfile.mkdtemp(prefix=f".{spec.name}.", dir=paths.images))
        try:
            with disk_full_explained(paths.images):
                async with open_tools(container, progress) as tools:
                    return await _build(paths, spec, tools, progress, work)
        except BaseException:
            # The next build removes the leftovers that this cannot remove.
            with trio.CancelScope(shield=True), contextlib.suppress(VitrailError):
                shutil.rmtree(work, ignore_errors=True)
                await remove_leftovers(paths, spec.name)
            raise


# -- the build ---------------------------------------------------------------------


async def _build(
    paths: Paths, spec: ImageSpec, tools: BuildTools, progress: Progress, work: Path
) -> Image:
    """Build an image in ``work``, and put it in place."""
    need_space(paths.images, "the image")
    await _bootstrap(paths, spec, tools, progress, work)
    await in_thread(_note_x11, work, spec)
    progress("creating the root file system")
    await files.make_root(work, spec.size, tools)
    progress("creating the initramfs")
    release = await files.make_boot(work, tools)
    progress("computing the digest")
    digest = await in_thread(files.digest, work)
    manifest = Manifest(
        format=store.FORMAT,
        spec=spec,
        kernel=release,
        versions=files.read_versions(work / "boot" / "packages"),
        built=time.time(),
        digest=digest,
        agent=hashlib.sha256(guest_agent()).hexdigest(),
        recipe=installed.recipe(spec.kernel),
    )
    shutil.rmtree(work / "boot")
    (work / "manifest.json").write_bytes(installed.manifest_bytes(manifest))
    return put_in_place(paths, spec.name, work)


def _note_x11(work: Path, spec: ImageSpec) -> None:
    """Print which programs need X11, and store their names for their starts."""
    names = []
    if x11_needs.X_SERVER not in spec.packages:
        names = x11_needs.x11_programs(work / "root.tar", spec.packages)
    x11_needs.note_x11(work, names)
    if names:
        render.note(f"note: {x11_needs.needs_x11_text(names, spec.name)}")


def put_in_place(paths: Paths, name: str, work: Path) -> Image:
    """Make the files in ``work`` the image ``images/NAME``, in one step."""
    work.chmod(0o755)
    image = store.read_image(name, work)
    installed.keep_previous(paths, name)
    installed.point(paths.images / name, work.name)
    for directory in installed.unused_versions(paths, name):
        shutil.rmtree(directory)
    return image


async def _bootstrap(
    paths: Paths,
    spec: ImageSpec,
    tools: BuildTools,
    progress: Progress,
    work: Path,
) -> None:
    """Run mmdebstrap, which writes ``root.tar`` and ``boot.tar`` below ``work``."""
    archive = await find_archive(spec.mirror, tools.query_argv())
    scratch = make_scratch(paths, spec.name)
    # mmdebstrap may run in a container of others, which sees this directory alone.
    output = work / "output"
    output.mkdir()
    (output / "vitrail_guest.py").write_bytes(guest_agent())
    env = {
        "LC_ALL": "C.UTF-8",
        "TMPDIR": str(scratch),
        "SOURCE_DATE_EPOCH": str(EPOCH),
        "KERNEL": spec.kernel,
    }
    argv = bootstrap_words(spec, archive, output, scratch, tools)
    progress(f"requesting {spec.suite} from {archive.mirror}")
    await _run_bootstrap(*tools.bootstrap_command(argv, env, output, scratch), progress)
    await in_thread(files.take_archives, output, work)
    drop_scratch(paths, spec.name)


def bootstrap_words(
    spec: ImageSpec,
    archive: Archive,
    work: Path,
    scratch: Path,
    tools: BuildTools = NATIVE_TOOLS,
) -> list[str]:
    """Return mmdebstrap's command line.

    It names the scratch directory, by which a left-over process is known.
    """
    options = {
        **archive.options,
        "Acquire::Languages": "none",
        "APT::Install-Recommends": "false",
    }
    customize = (resources.files("broker") / "data/image/customize.sh").read_text()
    return [
        "mmdebstrap",
        f"--mode={tools.mode}",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(map(_apt_word, spec.all_packages))}",
        *(f'--aptopt={key} "{value}"' for key, value in sorted(options.items())),
        f"--setup-hook={_look_up(spec)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _UNNEEDED),
        f'--customize-hook=mkdir -p "$1{_HOME}"',
        f"--customize-hook=upload {work}/vitrail_guest.py {_HOME}/vitrail_guest.py",
        f"--customize-hook=# in {scratch}\n{customize}",
        "--customize-hook=rm -f " + " ".join(f'"$1"/{name}' for name in _DRAWN),
        f"--customize-hook=tar-out /var/tmp/vitrail-boot {work}/boot.tar",
        '--customize-hook=rm -r "$1/var/tmp/vitrail-boot"',
        spec.suite,
        str(work / "root.tar"),
        *archive.lines(spec.suite),
    ]


def _look_up(spec: ImageSpec) -> str:
    """Return the command that fails for a package that the archive does not have.

    It gets the lists, which mmdebstrap then keeps, before any package is downloaded.
    """
    # A hook of apt's own update would run below the new root since mmdebstrap 1.5.
    # The names are checked and have no character that a shell reads.
    names = " ".join(spec.all_packages)
    apt = "apt-get -q -o APT::Sandbox::User=root"
    config = 'export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"'
    return (
        f"{config}; {apt} update --error-on=any && {apt} -s install {names} >/dev/null"
    )


def _apt_word(name: str) -> str:
    """Return the word by which apt-get(8) installs the package of this name, no other.

    A name with '.' or '+' that no package has would be an expression for many.
    """
    # guard: the name of a package is not an expression
    special = {".", "+"} & set(name)
    if not special:
        return name
    escaped = "".join(f"\\{one}" if one in special else one for one in name)
    return f"^{escaped}$"


def _package_of(word: str) -> str:
    return word.strip("^$").replace("\\", "")


async def _run_bootstrap(
    argv: list[str], env: Mapping[str, str], progress: Progress
) -> None:
    """Run mmdebstrap and report its output as progress.  Raises UpstreamError."""
    read, write = os.pipe2(os.O_CLOEXEC)
    try:
        child = spawn(argv, env=env, stdout=write, stderr=write)
    except BaseException:
        os.close(read)
        raise
    finally:
        os.close(write)
    said: list[str] = []
    full = False
    try:
        with trio.fail_after(limits.IMAGE_BUILD_SECONDS):
            async for line in _lines(read):
                said.append(line)
                del said[:-_LAST_LINES]
                full = full or says_no_space(line)
                if step := _STEP.fullmatch(line):
                    progress(_STEP_WORDS.get(step[1], step[1]))
            code = await child.wait()
    except trio.TooSlowError as error:
        raise UpstreamError(
            f"mmdebstrap took longer than {limits.IMAGE_BUILD_SECONDS:g} s and was "
            "ended",
            hint="choose a faster mirror with --mirror",
        ) from error
    finally:
        await child.kill_and_wait()  # its children are ended with its scratch
    if code != 0 and full:
        raise OSError(errno.ENOSPC, "mmdebstrap: no space left on device")
    if code != 0:
        raise bootstrap_failed(said)


async def _lines(fd: int) -> AsyncIterator[str]:
    """Yield the lines of a pipe, escaped; carriage returns (progress bars) end one."""
    rest = b""
    async with trio.lowlevel.FdStream(fd) as stream:
        async for chunk in stream:
            *whole, rest = re.split(rb"[\r\n]+", rest + chunk)
            for line in whole:
                yield printable(line, 400)


def _words_before(said: list[str], failure: str) -> list[str]:
    """Return the lines before that of a package's failure: what its script wrote."""
    at = said.index(failure.partition("\n")[0])
    return [line.strip() for line in said[max(0, at - 5) : at] if line.strip()]


def bootstrap_failed(said: list[str]) -> VitrailError:
    """Return the error that mmdebstrap's last lines describe."""
    text = "\n".join(said)
    if unknown := re.search(r"Unable to locate package (\S+)", text):
        return SetupError(
            "the package archive does not contain the package "
            f"{_package_of(unknown[1])}",
            hint="check the name of the package (--package) and the suite (--suite)",
        )
    if "is not valid yet" in text:
        return SetupError(
            "the date of the package archive's index is later than this machine's "
            "clock",
            hint="set the clock, for example with 'sudo timedatectl set-ntp true'",
        )
    if "is expired" in text:
        return SetupError(
            "by this machine's clock, the package archive's index has expired",
            hint="if the clock is right, choose another mirror with --mirror, or "
            'make apt accept the index (Acquire::Check-Valid-Until "false")',
        )
    if failed := _FAILED_PACKAGE.search(text):
        return UpstreamError(
            f"the package {failed[1]} cannot be installed in the image: "
            f"{failed[2][:300]}",
            hint="leave the package out, or choose another suite with --suite; its "
            f"own words: {'; '.join(_words_before(said, failed[0]))}",
        )
    errors = [line for line in said if line.startswith(("E: ", "Err:", "W: "))]
    return UpstreamError(
        "mmdebstrap failed: " + ("; ".join(errors or said[-5:])[-1500:] or "no output"),
        hint="if the mirror cannot be reached, check the network or choose another "
        "mirror with --mirror",
    )
