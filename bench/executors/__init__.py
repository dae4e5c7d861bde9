"""The executors that come with gatebench: how shards are computed on this machine."""
