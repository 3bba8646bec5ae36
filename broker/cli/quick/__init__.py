"""Verbs that import little: ``run`` of a box, and the short ``status``."""
