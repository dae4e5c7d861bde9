"""Bytes on disk: atomic writes, canonical JSON, TOML, locks, the user's home.

Nothing of the domain.
"""
