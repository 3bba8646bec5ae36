"""May it: rules, grants, questions, the audit log and the control socket."""

from __future__ import annotations
