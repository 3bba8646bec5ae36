"""Colours: the palette stays apart, distances and contrast are the known ones."""

from __future__ import annotations

import itertools

import pytest

from policy.records.patterns import PALETTE
from policy.tools.colours import (
    APART,
    FAINT,
    SIGHTS,
    Seen,
    contrast,
    distance,
    faint,
    ink,
    seen,
)


@pytest.mark.parametrize("sight", SIGHTS)
def test_named_colours_stay_apart(sight):
    """For the usual sight and the three kinds of colour blindness."""
    for one, other in itertools.combinations(PALETTE, 2):
        apart = distance(seen(PALETTE[one], sight), seen(PALETTE[other], sight))
        assert apart > APART, f"{one} and {other}: {apart:.1f}"


def test_named_colours_can_be_seen():
    """On white and on black."""
    assert {name: faint(value) for name, value in PALETTE.items()} == dict.fromkeys(
        PALETTE, ""
    )


@pytest.mark.parametrize(
    ("colour", "lab"),
    [
        ("#ffffff", (100, 0, 0)),
        ("#000000", (0, 0, 0)),
        ("#ff0000", (53.24, 80.09, 67.20)),
        ("#00ff00", (87.73, -86.18, 83.18)),
        ("#0000ff", (32.30, 79.19, -107.86)),
    ],
)
def test_lab_is_that_of_the_tables(colour, lab):
    """Published values for sRGB under D65."""
    assert seen(colour, "usual sight") == pytest.approx(lab, abs=0.1)


def test_contrast_is_that_of_wcag():
    """21 between black and white, 4.54 for #767676 on white."""
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize(
    ("colour", "beside"),
    [("#ffffff", "white"), ("#e8e8e8", "white"), ("#e0e0e0", ""), ("#000000", "black"),
     ("#181818", "black"), ("#1e1e1e", "")],
)  # fmt: skip
def test_faint_colours(colour, beside):
    """Just below the least contrast, and just above it."""
    assert faint(colour) == beside
    if beside:
        assert (
            contrast(colour, {"white": "#ffffff", "black": "#000000"}[beside]) < FAINT
        )


def test_who_takes_one_for_the_other():
    """Red and green of one brightness are one colour for some."""
    sights = Seen(["#ff0000", "#a08f00", "#0000ff", "#0100ff"])
    assert sights.alike("#0000ff", "#0100ff") == "usual sight"
    assert sights.alike("#ff0000", "#0000ff") == ""
    assert sights.alike("#ff0000", "#a08f00") in {"protanopia", "deuteranopia", ""}
    assert Seen(["#c04040", "#707020"]).alike("#c04040", "#707020") != "usual sight"


@pytest.mark.parametrize(("colour", "letters"), [("#ffff00", "#000000"), ("#0000ff", "#ffffff")])  # fmt: skip
def test_ink(colour, letters):
    """Letters are readable on any colour (at least 4.5)."""
    assert ink(colour) == letters
    assert contrast(colour, letters) > 4.5
