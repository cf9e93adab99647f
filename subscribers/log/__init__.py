"""The log group: from the broker into the event log."""
