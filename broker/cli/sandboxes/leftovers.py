"""Find and remove logs, the parent machine and the image of a sandbox."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from broker.cli import render
from broker.cli.images.installed import remove_image
from broker.cli.policy.records import IMPORTED
from broker.cli.sandboxes.ended_disposables import is_disposable_of
from broker.cli.sandboxes.presets import is_unchanged, rules_file
from broker.core.files.trees import disk_usage, remove_tree
from broker.core.paths import Paths
from policy.records.folder import FOLDER
from policy.records.model import Record


@dataclass(frozen=True)
class Leftovers:
    """Files of one record that are not its home; empty if none exist."""

    logs: tuple[Path, ...] = ()
    """Log directories, of each sandbox of the record."""
    parent: Path | None = None
    """The directory of its parent machine, which disposables are copies of."""
    image: str = ""
    """The image that only this record starts from."""
    imported: Path | None = None
    """The record of a backup that was set aside (``brokerctl sandbox import``)."""
    rules: Path | None = None
    """The rules that ``brokerctl new --for`` wrote for it, unchanged."""
    edited: Path | None = None
    """The file of those, if it was edited: it stays."""

    def describe(self) -> str:
        """Return the other files to remove, with sizes, as the end of a question."""
        parts: list[str] = []
        if self.logs:
            logs = render.size(sum(map(disk_usage, self.logs)))
            parts.append(f"its logs ({logs})")
        if self.parent is not None:
            parts.append(f"its parent machine ({render.size(disk_usage(self.parent))})")
        if self.image:
            parts.append(f"the image '{self.image}'")
        if self.imported is not None:
            parts.append(str(self.imported))
        if self.rules is not None:
            parts.append(f"its rules {self.rules}")
        return "".join(f", {part}" for part in parts)

    def remove(self, paths: Paths) -> list[str]:
        """Remove the leftovers; return their paths, and the image as ``image:NAME``."""
        for folder in self.logs:
            remove_tree(folder)
        removed = [str(folder) for folder in self.logs]
        if self.parent is not None:
            remove_tree(self.parent)
            removed.append(str(self.parent))
        if self.image:
            remove_image(paths, self.image)
            removed.append(f"image:{self.image}")
        if self.imported is not None:
            self.imported.unlink(missing_ok=True)
            removed.append(str(self.imported))
        if self.rules is not None:
            self.rules.unlink(missing_ok=True)
            removed.append(str(self.rules))
        return removed

    def tell_kept(self) -> None:
        """Name the file of rules that stays."""
        if self.edited is not None:
            render.note(f"kept {self.edited}, which was edited: remove it yourself")


def find_leftovers(
    paths: Paths,
    name: str,
    records: Iterable[Record],
    *,
    logs: bool = True,
    image: bool = False,
) -> Leftovers:
    """Return what a record leaves; an image only where no other record starts from it."""
    parent, records = paths.parents / name, tuple(records)
    others = {record.name for record in records} - {name}
    rules = rules_file(paths, name)
    unchanged = rules.is_file() and is_unchanged(rules, name)
    # guard: another record's logs stay, whatever its name is
    folders = [one for one in log_folders(paths, name) if one.name not in others]
    return Leftovers(
        tuple(folders) if logs else (),
        parent if parent.is_dir() else None,
        own_image(paths, name, records) if image else "",
        imported_record(paths, name),
        rules if unchanged else None,
        rules if rules.is_file() and not unchanged else None,
    )


def imported_record(paths: Paths, name: str) -> Path | None:
    """Return the file of a backup's record that was set aside, if there is one."""
    file = paths.config[0] / FOLDER / f"{name}.toml{IMPORTED}"
    return file if file.is_file() else None


def log_folders(paths: Paths, name: str) -> list[Path]:
    """Return the log directories of a record's sandboxes."""
    folder = paths.logs("x").parent
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p for p in found if p.name == name or is_disposable_of(p.name, name))


def own_image(paths: Paths, name: str, records: Iterable[Record]) -> str:
    """Return the image that a record starts from, if no other one does; else empty."""
    users = images_in_use(records)
    for image, names in users.items():
        if names == {name} and (paths.images / image).is_symlink():
            return image
    return ""


def images_in_use(records: Iterable[Record]) -> dict[str, set[str]]:
    """Return the names of images that records start from, with those records."""
    found: dict[str, set[str]] = {}
    for record in records:
        image = getattr(record.host.launch, "image", None)
        if isinstance(image, str) and image:
            found.setdefault(image, set()).add(record.name)
    return found
