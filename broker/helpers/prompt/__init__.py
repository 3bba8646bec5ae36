"""Asking the user: the questions, their order, and the behaviour of a dialog."""
