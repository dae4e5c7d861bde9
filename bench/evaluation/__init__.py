"""One shard of one cell: build, prepare, attack, judge, record."""
