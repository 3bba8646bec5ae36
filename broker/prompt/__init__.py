"""Asking the person: what is asked, in which order, and how a dialog behaves."""
