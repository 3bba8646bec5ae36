"""Proof that the log is unchanged: tree, signatures, verification.

Processes: vitrail-ingest, brokerctl (chain); authority, viewer, host, vitrail-ingest,
brokerctl (ed25519, note); authority, brokerctl (keys, seal, witness); authority,
viewer, host, brokerctl (offer).
"""
