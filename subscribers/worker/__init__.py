"""A worker of a sink group: from the shards, or the event log, into the sink."""
