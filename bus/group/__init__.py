"""Groups: how the workers of one sink share its shards."""
