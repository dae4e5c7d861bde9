"""Trained weights: manifests, checkpoints of others, model cards. Imports no torch.

Also here by their short names: what commands and plugins use.
"""

from bench.weights.entry import NAME, Entry
from bench.weights.manifest import (
    MANIFEST,
    Manifest,
    entries,
    find,
    manifests,
    module_folder,
    read_manifest,
)
from bench.weights.storage import (
    add_entry,
    load_into,
    mismatches,
    read_bytes,
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
    "mismatches",
    "module_folder",
    "read_bytes",
    "read_manifest",
    "read_record",
    "read_state",
]
