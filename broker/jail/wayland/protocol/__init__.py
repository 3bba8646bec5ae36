"""The Wayland protocol: wire format, objects, tables, dispatch.

Processes: worker, brokerctl (dispatch, emit, event_clock, formats, ids, joined,
objects, serials, signatures, tables, trace); helpers, worker, brokerctl (wire).
"""
