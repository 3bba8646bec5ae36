"""Asking the user: the questions, their order, and the behaviour of a dialog.

Processes: vitrail-access (accessible); prompt agent (description, input, paint,
window); prompt agent, vitrail-access (dialog, guard); prompt agent, brokerctl (keys);
prompt agent, screen frame (layershell); name strip (name_strip); screen frame
(screen_frame).
"""
