"""Texts in the user's language: catalogues of gettext, compiled when Vitrail is built.

Processes that show a text to the user run this: brokerctl, the prompt agent,
``vitrail-access``, session children, a child of the starter, and the viewer for its own
notifications.
"""
