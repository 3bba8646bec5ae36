"""Texts in the user's language: catalogues of gettext, compiled when Vitrail is built."""
