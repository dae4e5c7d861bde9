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
from bench.weights.parts import WeightsPart
from bench.weights.sources import NotInstalled
from bench.weights.storage import (
    add_entry,
    check_files,
    check_name,
    halved,
    load_entry,
    load_into,
    mismatches,
    read_bytes,
    read_record,
    read_state,
    read_whole,
)

__all__ = [
    "MANIFEST",
    "NAME",
    "Entry",
    "Manifest",
    "NotInstalled",
    "WeightsPart",
    "add_entry",
    "check_files",
    "check_name",
    "entries",
    "find",
    "halved",
    "load_entry",
    "load_into",
    "manifests",
    "mismatches",
    "module_folder",
    "read_bytes",
    "read_manifest",
    "read_record",
    "read_state",
    "read_whole",
]
