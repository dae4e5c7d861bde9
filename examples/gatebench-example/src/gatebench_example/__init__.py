"""A target and an attack for gatebench, to copy from."""
