"""Token shards: reading and writing."""
