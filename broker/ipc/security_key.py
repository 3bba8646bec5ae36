"""What a guest wants of a security key, as its parser tells the viewer."""

from __future__ import annotations

REGISTER, SIGN_IN, LOOK = "register", "sign in", "look"
ENTER_PIN = "enter PIN"
"""What a request is for."""
