"""The programs that build images: this machine's, or those of a Podman container.

A system without apt has no mmdebstrap.  There the same command lines run in rootless
containers, so both ways give the same bytes: mmdebstrap is root in the user namespace of
the container and not in a new one, and genext2fs reads the archive in a
container without network, in place of a jail.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from broker.cli.images.building.build_room import BUILD_TOOLS, CONTAINER, Progress
from broker.core import limits
from broker.core.errors import RefusedError, UpstreamError
from broker.core.escape import printable
from broker.helpers.process.jail_libraries import python_words
from broker.helpers.process.spawn import run_tool
from broker.helpers.process.tool_jail import ROOM, jail_words

_REFERENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,255}")
_BUILDER = "localhost/vitrail-image-builder"
# The package lists stay: apt-get indextargets reads in them where the archive is.
_RECIPE = """\
FROM {base}
RUN {test} || {{ apt-get update && \
    apt-get install --yes --no-install-recommends {packages} python3; }}
"""


@dataclass(frozen=True)
class BuildTools:
    """Command lines of the programs; ``builder`` is a container image, "" for none.

    ``name`` is the container's: one runs at a time.
    """

    builder: str = ""
    name: str = ""

    @property
    def mode(self) -> str:
        """The mode of mmdebstrap."""
        return "root" if self.builder or os.geteuid() == 0 else "unshare"

    def bootstrap_command(
        self, argv: Sequence[str], env: Mapping[str, str], *writable: Path
    ) -> tuple[list[str], dict[str, str]]:
        """Return mmdebstrap's command line and environment; it mounts and downloads."""
        path = f"{os.environ.get('PATH', '/usr/bin:/bin')}:/usr/sbin:/sbin"
        if not self.builder:
            return list(argv), {
                "PATH": path,
                "HOME": os.environ.get("HOME", "/"),
                **env,
            }
        # These are rights in the container's user namespace.  mmdebstrap without root
        # has the same in its own.
        options = ["--cap-add=SYS_ADMIN", "--security-opt=unmask=ALL"]
        options += [f"--env={key}={value}" for key, value in env.items()]
        visible = {path: str(path) for path in writable}
        return self._container_argv(options, visible, argv), dict(os.environ)

    def query_argv(self) -> list[str]:
        """Return how a command line begins that only reads apt's settings."""
        return self._container_argv(["--network=none"], {}, ()) if self.builder else []

    def jailed_argv(
        self, directory: Path, visible: Mapping[Path, str], argv: Sequence[str]
    ) -> list[str]:
        """Return a command line that can write to ``directory`` and nowhere else."""
        if not self.builder:
            # guard: a file system is made in a jail
            return [*jail_words(directory, visible), *argv]
        options = ["--network=none", "--cap-drop=ALL", f"--workdir={ROOM}"]
        options += [f"--volume={path}:{target}:ro" for path, target in visible.items()]
        return self._container_argv(options, {directory: ROOM}, argv)

    def python_argv(self) -> list[str]:
        """Return the command of the Python that runs in the jail."""
        return ["python3", "-I", "-S", "-B"] if self.builder else python_words()

    def _container_argv(
        self, options: Iterable[str], writable: Mapping[Path, str], argv: Sequence[str]
    ) -> list[str]:
        volumes = [f"--volume={path}:{target}" for path, target in writable.items()]
        # Without its label SELinux would refuse the directories of the build.
        always = ["--rm", "--pull=never", "--log-driver=none", f"--name={self.name}"]
        # A killed brokerctl leaves it running: conmon is its parent.
        always += ["--replace", f"--timeout={limits.IMAGE_BUILD_SECONDS:.0f}"]
        label = "--security-opt=label=disable"
        return [
            "podman",
            "run",
            *always,
            label,
            *options,
            *volumes,
            self.builder,
            *argv,
        ]


NATIVE_TOOLS = BuildTools()


@asynccontextmanager
async def open_tools(container: str, progress: Progress) -> AsyncIterator[BuildTools]:
    """Yield the tools of a build in ``container``, "" for this machine's own.

    Runs podman, which makes an image with the tools from ``container`` unless it has
    made it before, and ends the container that is left.  Raises UpstreamError if it
    cannot, RefusedError for root.
    """
    if not container:
        yield NATIVE_TOOLS
        return
    # guard: a container that builds is not root's
    if os.geteuid() == 0:
        raise RefusedError(
            "cannot build an image in a container as root, which would be root of this "
            "machine there",
            hint="run the command as an ordinary user",
        )
    builder = await _prepare_builder(container, progress)
    name = f"vitrail-build-{secrets.token_hex(8)}"
    try:
        yield BuildTools(builder, name)
    finally:
        # guard: a container that builds ends with the build
        with trio.CancelScope(shield=True):
            await run_tool(["podman", "rm", "--force", "--ignore", "--time=0", name])


async def _prepare_builder(container: str, progress: Progress) -> str:
    """Return the name of the container image with the tools; make it if it is missing."""
    # guard: the name of a container image is one word of its Containerfile
    if not _REFERENCE.fullmatch(container):
        raise RefusedError(
            f"{printable(container, 100)!r} is not the name of a container image",
            hint=f"use a name such as {CONTAINER}; 'podman images' lists local images",
        )
    recipe = _RECIPE.format(
        base=container,
        test=" && ".join(f"command -v {name}" for name in (*BUILD_TOOLS, "python3")),
        packages=" ".join(BUILD_TOOLS.values()),
    )
    builder = f"{_BUILDER}:{hashlib.sha256(recipe.encode()).hexdigest()[:16]}"
    if await _has_image(builder):
        return builder
    progress(f"preparing a container of {printable(container, 200)} with mmdebstrap")
    try:
        with tempfile.TemporaryDirectory() as context:
            Path(context, "Containerfile").write_text(recipe)
            await run_tool(
                ["podman", "build", "--pull=missing", f"--tag={builder}", context],
                deadline=limits.IMAGE_BUILD_SECONDS,
                output_limit=16 << 20,
            )
    except UpstreamError as error:
        raise UpstreamError(
            f"cannot prepare a container of {printable(container, 200)} with "
            f"mmdebstrap: {error.message}",
            hint=f"try 'podman pull {printable(container, 200)}'; name another Debian "
            "image with --container; or download a signed image with 'brokerctl image "
            "fetch'",
        ) from error
    return builder


async def _has_image(name: str) -> bool:
    try:
        await run_tool(["podman", "image", "exists", name])
    except UpstreamError:
        return False
    return True
