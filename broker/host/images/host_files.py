"""Files of this machine that a micro VM gets by ``launch.host_files``.

A separate process in a jail (``broker.host.vmm.launch_jails``), which then ends: what
parses the files of other packages holds no machines, and has no home but its fonts.
Its arguments are the kinds that the record names.

The files come with the guest agent in the initramfs of the launch, so that they are
those of the day and any image can be used.  Fonts are those of fontconfig's four
generic families only: a desktop's font directories have hundreds of megabytes, and
they would lie in the guest's memory.

The host starts that process, for each start of such a record.
"""

from __future__ import annotations

import base64
import gzip
import io
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

import msgspec
import trio

from broker.core import limits
from broker.core.distribution import install_hint
from broker.core.errors import SetupError, UpstreamError, VitrailError
from broker.helpers.process.spawn import run_tool

_FAMILIES = ("sans-serif", "serif", "monospace", "emoji")
_STYLES = ("", ":bold", ":italic", ":bold:italic")
_FONTS = "usr/local/share/fonts/host"
_ALIASES = "etc/fonts/conf.d/50-vitrail-host.conf"
_LOCALE = re.compile(r"([A-Za-z]{2,3}(?:_[A-Z]{2})?)\.(?:UTF-8|utf8)((?:@[a-z]+)?)")
_NO_DATA = frozenset({"", "C", "POSIX", "C.UTF-8", "C.utf8"})
_BUNDLES = (
    "etc/ssl/certs/ca-certificates.crt",
    "etc/pki/tls/certs/ca-bundle.crt",
    "etc/ssl/ca-bundle.pem",
)
"""Paths of Debian and Arch, of Fedora, and of openSUSE."""
_ADDED = ("usr/local/share/ca-certificates", "etc/pki/ca-trust/source/anchors")
_HASHED = re.compile(r"[0-9a-f]{8}\.[0-9]+")
_PEM = re.compile(
    rb"-----BEGIN ((?:TRUSTED |X509 )?CERTIFICATE)-----[\w+/=\s]+-----END \1-----"
)


@dataclass
class HostFiles:
    """Files by their path in the guest, without the first slash, and ``LANG``."""

    files: dict[str, bytes] = field(default_factory=dict)
    lang: str = ""

    def settings(self) -> dict[str, str]:
        """Return the guest agent's constants; equal files give equal text."""
        archive = base64.b64encode(gzip.compress(self._tar(), 6, mtime=0)).decode()
        return {"LAUNCH_FILES": archive, "LAUNCH_LANG": self.lang}

    def _tar(self) -> bytes:
        """Return the tar archive of the files and their directories."""
        out = io.BytesIO()
        folders = {
            str(parent) for name in self.files for parent in [*Path(name).parents][:-1]
        }
        with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
            for name in sorted(folders):
                entry = tarfile.TarInfo(name)
                entry.type, entry.mode = tarfile.DIRTYPE, 0o755
                tar.addfile(entry)
            for name, content in sorted(self.files.items()):
                entry = tarfile.TarInfo(name)
                entry.mode, entry.size = 0o644, len(content)
                tar.addfile(entry, io.BytesIO(content))
        return out.getvalue()


# This machine's programs run from an image of `/usr`, not over virtiofs. Both were
# tried. virtiofs needs no image and starts at once, but the guest's memory must be
# shared with virtiofsd, whose state QEMU cannot save: such a machine is never a copy of
# a parent machine. An update of packages would change files under running programs, and
# one more process, which can read all of `/usr` as the user, parses what a guest sends.
# So an image is made, once for each state of the packages; it costs a minute or two and
# as much disk as `/usr`, and everything else works as for any image.
# * `/etc` is a list of what programs need, not a list of secrets to leave out: a file
#   that is forgotten breaks a program, and gives nothing away.
# * Owners become root and set-user-ID bits are removed: in the guest they would make
#   root of a user who has no way to become root.
def print_files(*wanted: str) -> None:
    """Collect the files in this jailed process; print them, or the error, as JSON."""
    answer: dict[str, str] | tuple[str, str, str]
    try:
        answer = trio.run(collect, wanted).settings()
    except VitrailError as error:
        answer = error.message, error.hint, error.where
    sys.stdout.buffer.write(msgspec.json.encode(answer))


async def collect(
    wanted: Iterable[str],
    *,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> HostFiles:
    """Read the files of these kinds (fonts, locale, certificates) from this machine.

    Raises SetupError when this machine lacks one, or when they are too large.  Runs
    fc-match(1) and localedef(1).
    """
    found = HostFiles()
    try:
        if "fonts" in wanted:
            found.files.update(await _fonts())
        if "locale" in wanted:
            found.lang, files = await _locale(root, environ)
            found.files.update(files)
        if "certificates" in wanted:
            found.files.update(_certificates(root))
    except OSError as error:
        raise SetupError(
            f"launch.host_files: cannot read {error.filename or 'a file'}: {error.strerror}"
        ) from error
    size = sum(len(content) for content in found.files.values())
    if size > limits.HOST_FILES_BYTES:
        raise SetupError(
            f"launch.host_files: the files have {size >> 20} MiB; the limit for a guest is {limits.HOST_FILES_BYTES >> 20} MiB",
            hint="in place of 'fonts', add a font package to launch.packages",
        )
    return found


# -- fonts -----------------------------------------------------------------------


async def _fonts() -> dict[str, bytes]:
    """Return this machine's default fonts, and configuration that names them.

    Runs fc-match(1) for each.
    """
    files: dict[str, bytes] = {}
    names: dict[str, str] = {}
    for family in _FAMILIES:
        for style in _STYLES:
            name, path = await _match(family + style)
            if not style:
                names[family] = name
            # Others of the name (of a variable font, as a rule) are the same file.
            files[f"{_FONTS}/{path.name}"] = path.read_bytes()
    files[_ALIASES] = _aliases(names)
    return files


async def _match(pattern: str) -> tuple[str, Path]:
    """Ask fontconfig for the font of a pattern: its name and file.

    Raises SetupError.  Runs fc-match(1).
    """
    words = ("fc-match", "--format", "%{family[0]}\n%{file}\n", pattern)
    try:
        name, path = (await run_tool(words)).decode().splitlines()
    except (UpstreamError, ValueError) as error:
        raise SetupError(
            f"launch.host_files: fc-match did not find a font for {pattern!r}: {error}",
            hint=f"{install_hint('fontconfig', 'fonts-dejavu-core')}, then test it "
            "with 'fc-match'",
        ) from error
    return name, Path(path)


def _aliases(names: Mapping[str, str]) -> bytes:
    """Return a fontconfig file that prefers the copied fonts."""
    rows = "".join(
        f'<alias binding="same"><family>{family}</family><prefer>'
        f"<family>{escape(name)}</family></prefer></alias>\n"
        for family, name in names.items()
    )
    head = (
        '<?xml version="1.0"?>\n<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">'
    )
    return f"{head}\n<fontconfig>\n{rows}</fontconfig>\n".encode()


# -- the locale --------------------------------------------------------------------


async def _locale(
    root: Path, environ: Mapping[str, str]
) -> tuple[str, dict[str, bytes]]:
    """Return ``LANG`` for the guest, and its compiled locale where it needs one.

    A locale that is not there compiled is compiled by localedef(1), in a temporary
    directory.
    """
    lang = next(
        (environ[key] for key in ("LC_ALL", "LC_CTYPE", "LANG") if environ.get(key)), ""
    )
    if lang in _NO_DATA:
        return "C.UTF-8", {}
    parts = _LOCALE.fullmatch(lang)
    if parts is None:
        raise SetupError(
            f"launch.host_files: {lang!r} is not the name of a UTF-8 locale",
            hint="start the broker with LC_ALL, LC_CTYPE and LANG unset or set to a UTF-8 locale, for example de_DE.UTF-8",
        )
    name = f"{parts[1]}.utf8{parts[2]}"
    folder = root / "usr/lib/locale" / name
    if folder.is_dir():
        return lang, _below(folder, f"usr/lib/locale/{name}")
    with tempfile.TemporaryDirectory() as place:
        made = Path(place) / name
        source = f"{parts[1]}{parts[2]}"
        await _compile(("-i", source, "-f", "UTF-8", str(made)), lang)
        return lang, _below(made, f"usr/lib/locale/{name}")


async def _compile(words: Sequence[str], lang: str) -> None:
    """Compile a locale with localedef.  Raises SetupError."""
    try:
        await run_tool(("localedef", "--no-archive", "--no-warnings=ascii", *words))
    except UpstreamError as error:
        raise SetupError(
            f"launch.host_files: cannot compile the locale {lang}: {error}",
            hint=f"{install_hint('locales')}, which contains the sources of all "
            "locales",
        ) from error


def _below(folder: Path, name: str) -> dict[str, bytes]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {f"{name}/{path.relative_to(folder)}": path.read_bytes() for path in files}


# -- root certificates -------------------------------------------------------------


def _certificates(root: Path) -> dict[str, bytes]:
    """Return the system's root certificates, and those added by the administrator."""
    paths = (root / name for name in _BUNDLES)
    bundles = (only_certificates(path.read_bytes()) for path in paths if path.is_file())
    bundle = next(filter(None, bundles), b"")
    if not bundle:
        raise SetupError(
            "launch.host_files: cannot find the root certificates of this machine",
            hint=f"{install_hint('ca-certificates')}, which contains "
            f"/{' or /'.join(_BUNDLES)}",
        )
    files = {"etc/ssl/certs/ca-certificates.crt": bundle}
    for path in sorted((root / "etc/ssl/certs").glob("*")):
        # The names by which OpenSSL finds a root in a directory (openssl-rehash(1)).
        if _HASHED.fullmatch(path.name) and path.is_file():
            files[f"etc/ssl/certs/{path.name}"] = path.read_bytes()
    for folder in _ADDED:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in {".crt", ".pem"} and path.is_file():
                # No two in one: from a/root.crt to a-root.crt, from x.pem to x.pem.crt.
                name = "-".join(path.relative_to(root / folder).parts)
                name = f"{name.removesuffix('.crt')}.crt"
                files[f"usr/local/share/ca-certificates/{name}"] = path.read_bytes()
    # guard: a private key beside a root stays on the host
    files = {name: only_certificates(content) for name, content in files.items()}
    return {name: content for name, content in files.items() if content}


def only_certificates(content: bytes) -> bytes:
    """Return the certificates in a file, without anything else that is in it.

    Programs that make a root write its private key into the same file or beside it.
    """
    blocks = [found[0] + b"\n" for found in _PEM.finditer(content)]
    if blocks:
        return b"".join(blocks)
    # Late: most machines have none in DER.
    from cryptography import x509

    try:
        x509.load_der_x509_certificate(content)
    except ValueError:
        return b""
    return content
