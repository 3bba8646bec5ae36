"""The only place that starts processes: micro VMs, images, jails, compositors."""

from __future__ import annotations
