"""The harness of gatebench: contracts, plans, judging, storage and commands."""

__version__ = "0.1.0"
