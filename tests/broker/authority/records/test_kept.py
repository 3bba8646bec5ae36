"""A broker keeps the records in force for the next one."""

from __future__ import annotations

from pathlib import Path

from broker.authority.records.kept import folder_of, keep_records, mended
from broker.core.paths import Paths
from policy.records.loader import FOLDER, load_records
from policy.records.model import RecordSet

GOOD = 'class = "persistent"\r\n[label]\nname = "Wörk"\n'
WIDER = GOOD + '[launch]\nkind = "bwrap"\ncommand = ["sh"]\nnetwork = "user"\n'
BROKEN = 'class = "persistent"\nnonsense\n'


class Place:
    """Directories of a user, with one record."""

    def __init__(self, root: Path) -> None:
        places = (root / name for name in ("run", "state", "cache"))
        self.paths = Paths(*places, config=(root,))
        self.file = root / FOLDER / "work.toml"
        self.file.parent.mkdir()

    def read(self, text: str) -> RecordSet:
        self.file.write_bytes(text.encode())
        return load_records([self.file.parent])


def test_a_file_that_changes_after_it_was_read_is_not_kept(tmp_path):
    place = Place(tmp_path)
    read = place.read(GOOD)
    place.read(WIDER)
    keep_records(read, place.paths)
    again = mended(place.read(BROKEN), place.paths)
    assert again.records["work"].digest == read.records["work"].digest


def test_the_copy_has_the_texts_comments_and_letters(tmp_path):
    place = Place(tmp_path)
    keep_records(place.read(GOOD + "# ü\n"), place.paths)
    kept = (folder_of(place.paths) / "work.toml").read_text("utf-8")
    assert kept == GOOD.replace("\r\n", "\n") + "# ü\n"
