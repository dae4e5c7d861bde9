"""Names to classes through entry points, without importing torch."""
