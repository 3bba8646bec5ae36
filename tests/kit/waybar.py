"""A panel of the desktop, waybar, for tests of icons."""

from __future__ import annotations

import json
import os


def waybar(w, config):
    """Write waybar's files; return its command, and the environment of the desktop's programs."""
    folder = w.base / "bar"
    folder.mkdir()
    (folder / "config").write_text(json.dumps(config))
    (folder / "style").write_text("window#waybar { background: #202020; }")
    words = ["waybar", "-c", f"{folder}/config", "-s", f"{folder}/style"]
    return words, {**os.environ, **w.comp.environment, **w.environ}
