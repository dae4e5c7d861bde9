"""What is computed from sealed runs: transfer and latency."""
