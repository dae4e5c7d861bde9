"""Trained weights: manifests, checkpoints of others, model cards. Imports no torch.

Also here by their short names: what commands and plugins use of `bench.weights.manifest`.
"""

from bench.weights.manifest import (
    MANIFEST,
    NAME,
    Entry,
    Manifest,
    add_entry,
    entries,
    find,
    load_into,
    manifests,
    module_folder,
    read_bytes,
    read_manifest,
    read_record,
    read_state,
)

__all__ = [
    "MANIFEST",
    "NAME",
    "Entry",
    "Manifest",
    "add_entry",
    "entries",
    "find",
    "load_into",
    "manifests",
    "module_folder",
    "read_bytes",
    "read_manifest",
    "read_record",
    "read_state",
]
