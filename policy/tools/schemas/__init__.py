"""JSON Schemas of records and of the input and output of ``brokerctl policy``."""
