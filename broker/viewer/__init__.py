"""The viewer part: what belongs to the screen and the person."""
