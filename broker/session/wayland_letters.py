"""The letters of names in frames, in the user's own font.

The default is fontconfig's bold sans-serif; an alias for the family ``Vitrail`` in
``fonts.conf`` chooses another.
"""

from __future__ import annotations

from broker.helpers.process.popen import our_program
from broker.helpers.tools import profiles
from broker.session.tools import tool_output

_PATTERN = "Vitrail,sans-serif:bold"
_SECONDS = 20.0
_BYTES = 1 << 22


def draw_letters(height: int) -> bytes:
    """Draw the letters of this height in the user's font, as ``name_strip`` has them.

    Raises SetupError, UpstreamError, ValueError.  Runs fc-match(1), and our tool with the
    font that it names.
    """
    words = ("fc-match", "--format", "%{file}\n%{index}", _PATTERN)
    found = tool_output(words, deadline=_SECONDS, output_limit=_BYTES)
    file, _, index = found.decode().rpartition("\n")
    # The upper half names an instance of a variable font (FT_New_Face).
    number = str(int(index or 0) & 0xFFFF)
    argv = our_program(*profiles.LETTERS.start, str(height), file, number)
    return tool_output(argv, deadline=_SECONDS, output_limit=_BYTES)
