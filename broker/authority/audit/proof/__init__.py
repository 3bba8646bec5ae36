"""Proof that the log is unchanged: tree, signatures, verification.

Processes: vitrail-ingest, brokerctl (chain); authority, vitrail-ingest, brokerctl
(ed25519); authority, brokerctl (keys, seal, witness); authority, viewer, host, vitrail-
ingest, brokerctl (note); authority, viewer, host, brokerctl (offer).
"""
