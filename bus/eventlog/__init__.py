"""The event log: SQL tables that hold every event, and the source of truth."""
