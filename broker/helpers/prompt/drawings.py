"""What is drawn for your desktop beside windows: one program, which confines itself.

``drawings letters HEIGHT FILE INDEX`` prints the letters of frames' names
(``name_strip``), ``drawings frame RRGGBB WIDTH HEIGHT X Y`` frames a shared screen
(``screen_frame``), ``drawings banner RRGGBB:TEXT…`` shows what sandboxes use
(``use_banner``).
"""

from __future__ import annotations

import sys


def main() -> None:
    """Draw what the first word names."""
    # Late, by mode: FreeType is loaded where a font is read, libwayland where a frame
    # is shown.
    kind = sys.argv.pop(1)
    if kind == "letters":
        from broker.helpers.prompt import name_strip

        name_strip.main(*sys.argv[1:])
    elif kind == "banner":
        from broker.helpers.prompt import use_banner

        use_banner.main()
    else:
        from broker.helpers.prompt import screen_frame

        screen_frame.main()


if __name__ == "__main__":
    main()
