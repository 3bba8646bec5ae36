"""Asking the person: the questions, their order, and the behaviour of a dialog."""
