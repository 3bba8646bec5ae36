"""A broker that crashes at its start: its traceback is in the log, not at the terminal."""

from __future__ import annotations

from broker.cli.run.start import _TRACEBACK

_PLAIN = """\
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    main()
    ^^^^^^
IsADirectoryError: Is a directory: '/run/control'
vitrail: the authority crashed
"""
_GROUP = """\
vitrail-local: a first line
  + Exception Group Traceback (most recent call last):
  |   File "a.py", line 1, in <module>
  | ExceptionGroup: (1 sub-exception)
  +-+---------------- 1 ----------------
    | Traceback (most recent call last):
    |   File "b.py", line 1, in run
    | OSError: no
    +------------------------------------
vitrail: the authority crashed
"""


def test_the_error_stays_and_its_places_do_not():
    assert _TRACEBACK.sub("", _PLAIN) == (
        "IsADirectoryError: Is a directory: '/run/control'\n"
        "vitrail: the authority crashed\n"
    )
    assert _TRACEBACK.sub("", _GROUP) == (
        "vitrail-local: a first line\nvitrail: the authority crashed\n"
    )
