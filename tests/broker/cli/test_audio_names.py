"""``brokerctl audio`` of a sandbox without sound: kept for a known one, an error else."""

from __future__ import annotations

import pytest

from broker.core.paths import find_paths
from tests.kit.brokerctl import called, home


@pytest.fixture(name="env")
def _env():
    with home() as env:
        folder = find_paths(env).config[0] / "sandboxes.d"
        folder.mkdir(parents=True)
        (folder / "work.toml").write_text('class = "disposable"\n')
        (folder / "broken.toml").write_text("clas = 1\n")
        yield env


@pytest.mark.parametrize(
    "words", [("mute", "wrok"), ("unmute", "wrok"), ("volume", "wrok", "50")]
)
def test_a_misspelt_name_is_an_error_and_nothing_is_stored(env, words):
    answer = called("audio", *words, env=env)
    assert answer.code == 1
    assert "'wrok'" in answer.err
    assert not (find_paths(env).state / "audio").exists()


@pytest.mark.parametrize("name", ["work", "work-1234", "broken"])
def test_the_setting_that_is_kept_is_shown(env, name):
    answer = called("audio", "volume", name, "50", env=env)
    assert (
        answer.err
        == f"'{name}' has no sound connection; the next sandbox of this name "
        "starts with: 50 %\n"
    )
    answer = called("audio", "volume", name, "40", env=env)
    assert answer.err.endswith(": 40 %\n")
