"""Contract tests for targets and attacks, and a toy target whose MACs are computed by hand; shipped for plugin authors."""
