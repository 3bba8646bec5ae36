"""A machine has no sound card: the sound server is ALSA's default, as in a box."""

from __future__ import annotations

from broker.host.launchers.bubblewrap.command import ALSA_SETTINGS
from shims.guest import pid1


def test_the_sound_server_is_alsas_default(tmp_path):
    (tmp_path / "etc").mkdir()
    pid1.let_alsa_play(str(tmp_path))
    assert (tmp_path / "etc/asound.conf").read_bytes() == ALSA_SETTINGS


def test_an_images_own_settings_of_alsa_stay(tmp_path):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/asound.conf").write_text("the image's")
    pid1.let_alsa_play(str(tmp_path))
    assert (tmp_path / "etc/asound.conf").read_text() == "the image's"


def test_a_machine_starts_without_a_directory_for_them(tmp_path, capfd):
    pid1.let_alsa_play(str(tmp_path))
    assert "etc/asound.conf" in capfd.readouterr().err
