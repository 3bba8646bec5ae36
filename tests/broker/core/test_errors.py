"""Errors name whose fault they are and what to do next."""

from __future__ import annotations

import pytest

from broker.core import errors


def test_the_base_is_never_raised_itself():
    """The raiser of an error must say whose fault it is."""
    with pytest.raises(TypeError, match="subclass"):
        errors.VitrailError("something went wrong")


@pytest.mark.parametrize(
    "kind",
    [
        errors.PeerError,
        errors.RefusedError,
        errors.UpstreamError,
        errors.SetupError,
        errors.InternalError,
    ],
)
def test_what_an_error_says(kind):
    """First line with the place, then the hint on a separate line."""
    bare = kind("the message")
    assert str(bare) == bare.diagnostics() == "the message"
    full = kind("the message", hint="do this", where="file:1:2")
    assert (full.message, full.hint, full.where) == (
        "the message",
        "do this",
        "file:1:2",
    )
    assert str(full) == "file:1:2: the message"
    assert full.diagnostics() == "file:1:2: the message\n  hint: do this"
    assert isinstance(full, errors.VitrailError)


def test_every_error_names_whose_fault_it_is():
    """Each class promises in its docstring when it is raised."""
    for kind in errors.VitrailError.__subclasses__():
        assert kind.__doc__


def test_the_sole_error_of_nested_groups_is_found_and_none_of_several_chosen():
    one, two = errors.SetupError("one"), ValueError("two")
    nested = ExceptionGroup("a", [ExceptionGroup("b", [one])])
    assert errors.sole(one) is one
    assert errors.sole(nested) is one
    several = ExceptionGroup("c", [one, two])
    assert errors.sole(several) is several
    assert errors.sole(ExceptionGroup("d", [several])) is several


def test_a_message_has_the_words_of_an_error_of_the_system_without_its_number():
    error = FileNotFoundError(2, "No such file or directory", "/x")
    assert str(errors.UpstreamError(f"the log: {error}")) == (
        "the log: No such file or directory: '/x'"
    )
