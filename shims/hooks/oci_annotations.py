"""The annotations of a container: which are the user's, and which the image's own.

Podman gives a container the annotations of its image, too.  An image is a stranger's,
so only annotations that Podman's command line, or a file of the user's, has given
count: see ``refuse_annotations_of_image``; of others that a runtime may obey a leased
container has none: see ``remove_annotations_of_image``.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Set, Tuple

from shims.hooks.user_socket import HookError

Json = Any
"""A JSON document that has not been looked at."""
SANDBOX = "io.vitrail.sandbox"
REQUIRED = "io.vitrail.required"
OURS = "io.vitrail.ours"
LAUNCH = "io.vitrail.launch"
POD = "io.kubernetes.cri-o.SandboxID"
"""Given by Podman to each container of a pod."""
PREFIX = "io.vitrail."
PODMANS = (PREFIX, "io.podman.", "io.container.", "org.opencontainers.")
"""Beginnings of annotations that Podman gives itself and no runtime obeys."""
STORAGE_ID = re.compile(r"[0-9a-f]{64}")
MANIFEST_BYTES = 8 << 20


def log(text: str) -> None:
    """Write a line to standard error, where Podman shows it for a failed start."""
    safe = text.encode("ascii", "backslashreplace").decode()
    print(
        "vitrail: " + "".join(c if c.isprintable() else "?" for c in safe),
        file=sys.stderr,
    )


def annotations_of(document: Json) -> Dict[str, str]:
    """Return the annotations of a configuration or state; {} for anything else."""
    found = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, str)}


def refuse_annotations_of_image(
    config: Json, annotations: Dict[str, str], command_line: List[str]
) -> None:
    """Raise HookError for our annotations that may be the image's own.

    They are the user's when each is on Podman's command line, or when Podman's
    storage shows that the image has none (``podman start``, annotations of a file).
    """
    wanted = {f"{key}={value}" for key, value in annotations.items() if _is_ours(key)}
    # guard: an image does not set our annotations
    if wanted <= typed_annotations(command_line):
        return
    root = config.get("root") if isinstance(config, dict) else None
    path = root.get("path") if isinstance(root, dict) else None
    names = image_names(path) if isinstance(path, str) else None
    if names is None:
        raise HookError(
            "cannot find out whether the annotation comes from the image: pass it with 'podman "
            "run --annotation'"
        )
    if any(map(_is_ours, names)):
        raise HookError("the image must not have annotations for Vitrail")


def is_by_file(annotations: Dict[str, str], command_line: List[str]) -> bool:
    """Return whether a file may have named the record: for a pod, or by Podman's API.

    Containers of ``podman kube play`` are in a pod; it has no annotation typed.
    """
    if f"{SANDBOX}={annotations.get(SANDBOX)}" in typed_annotations(command_line):
        return False
    # guard: a file that Podman plays names no record by itself
    argv = set(command_line)
    return (
        POD in annotations or {"kube", "play"} <= argv or {"system", "service"} <= argv
    )


def remove_annotations_of_image(config: Json, command_line: List[str]) -> None:
    """Take the annotations of the image out of a container's configuration.

    Runtimes obey some: crun's ``run.oci.`` replace the filter of system calls
    (``seccomp_bpf_data``) and write a file outside (``hooks.stderr``), and
    ``org.systemd.property.`` are properties of a unit at the user's systemd.  What the
    image has not, Podman has given for its options (``--group-add keep-groups``).
    """
    typed = typed_annotations(command_line)
    given = annotations_of(config)
    # guard: a runtime obeys no annotation of an image
    foreign = {key for key in given if not _is_podmans(key, given[key], typed)}
    if not foreign:
        return
    root = config.get("root")
    path = root.get("path") if isinstance(root, dict) else None
    names = image_names(path) if isinstance(path, str) else None
    for key in foreign if names is None else foreign & names:
        log(f"an annotation that may be the image's is left out: {key}")
        del config["annotations"][key]


def _is_podmans(key: str, value: str, typed: Set[str]) -> bool:
    return key.startswith(PODMANS) or f"{key}={value}" in typed


def _is_ours(key: str) -> bool:
    return key.startswith(PREFIX) and key != LAUNCH


def typed_annotations(words: List[str]) -> Set[str]:
    """Return the values of ``--annotation`` on a command line."""
    option = "--annotation"
    behind = {word for before, word in zip(words, words[1:]) if before == option}
    joined = {word for word in words if word.startswith(option + "=")}
    return behind | {word[len(option) + 1 :] for word in joined}


def command_line_of(pid: int) -> List[str]:
    """Return a process's command line; nothing where it has ended."""
    try:
        data = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return []
    return data.decode("utf-8", "surrogateescape").split("\0")


def image_names(root: str) -> Optional[Set[str]]:
    """Return every name in the manifests of the image behind a container's root.

    ``GRAPH/overlay/LAYER/merged``, or ``GRAPH/vfs/dir/LAYER``: the lists of containers
    beside it name the image.  None where that is not found.
    """
    parts = Path(root).parts
    layers = [number for number, p in enumerate(parts) if STORAGE_ID.fullmatch(p)]
    for number in layers[-1:]:
        above = Path(*parts[:number])
        for driver in (above, above.parent):
            image = _image_of(
                driver.with_name(driver.name + "-containers"), parts[number]
            )
            if image is not None:
                return _names_in(driver.with_name(driver.name + "-images") / image)
    return None


def _image_of(folder: Path, layer: str) -> Optional[str]:
    for name in ("containers.json", "volatile-containers.json"):
        for entry in _document(folder / name) or []:
            if isinstance(entry, dict) and entry.get("layer") == layer:
                image = entry.get("image")
                if isinstance(image, str) and STORAGE_ID.fullmatch(image):
                    return image
    return None


def _names_in(folder: Path) -> Optional[Set[str]]:
    """Return every name in every manifest: Podman chooses which of them it reads."""
    found: Set[str] = set()
    try:
        files = [path for path in folder.iterdir() if _is_manifest(path.name)]
    except OSError:
        return None
    for path in files:
        if _document(path, found) is None:
            return None
    return found if files else None


def _is_manifest(name: str) -> bool:
    # A name with other characters is in base64, after "=" (containers/storage).
    return name == "manifest" or name.startswith("=bWFuaWZlc3Q")


def _document(path: Path, names: Optional[Set[str]] = None) -> Json:
    """Return a JSON document; ``names`` gets the names of all its objects' members."""
    seen: Set[str] = set() if names is None else names

    def note(pairs: List[Tuple[str, Json]]) -> Dict[str, Json]:
        seen.update(key for key, _ in pairs)
        return dict(pairs)

    try:
        with path.open("rb") as file:
            text = file.read(MANIFEST_BYTES).decode("utf-8", "replace")
        return json.loads(text, object_pairs_hook=note)
    except (OSError, ValueError, RecursionError):
        return None
