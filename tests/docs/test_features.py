"""Each module's feature is known from its path, and each feature lies where it is sought."""

from __future__ import annotations

from collections import defaultdict

import pytest

from docs import print_features
from docs.tables import features
from docs.tables.features import FEATURES, SEVERAL

WALK_LINES = 12


@pytest.mark.parametrize("name", FEATURES)
def test_a_process_has_at_most_one_place_for_a_feature(name):
    places: dict[str, set[str]] = defaultdict(set)
    for module in features.by_feature()[name]:
        places[features.row_of(module)].add(features.place_of(module)[1])
    several = {row: sorted(them) for row, them in places.items() if len(them) > 1}
    assert {row: them for row, them in several.items() if row not in SEVERAL} == {}


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_imports_only_the_features_of_its_row(name):
    """Another one is a decision: write it into ``docs/tables/features.py``."""
    assert sorted(features.uses(name)) == sorted(FEATURES[name].uses)


def test_no_word_names_two_features():
    words = [word for feature in FEATURES.values() for word in feature.words]
    assert sorted(set(words)) == sorted(words)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("broker.viewer.camera", "camera"),
        ("broker.core.limits.notifications", "notifications"),
        ("broker.viewer.folders.control", "folders"),
        ("broker.jail.worker.pipes", "frame"),
        ("shims.files.tray_pictures", "tray"),
    ],
)
def test_the_path_alone_says_the_feature(module, name):
    assert features.feature_of(module) == name


def test_the_page_has_the_matrix():
    """Mend with: python -m docs.print_features."""
    text = print_features.PAGE.read_text()
    assert print_features.page(text) == text


def test_walks_are_short():
    """A walk of the data is read beside the code; what is longer is not."""
    walks = print_features.PAGE.read_text().partition("## Walks")[2].split("\n### ")[1:]
    assert walks
    for walk in walks:
        title, _, body = walk.partition("\n")
        lines = [line for line in body.strip().splitlines() if line.strip()]
        assert len(lines) <= WALK_LINES, title
