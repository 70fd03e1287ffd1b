"""Atomic writes, the lock and the manifest of a folder, temporary files, portable names."""

from anyclass.files.atomic import (
    Json,
    atomic_write,
    read_json,
    regular,
    write_json,
    write_text,
)
from anyclass.files.cache import cache_folder
from anyclass.files.folder_lock import LOCKS, lock
from anyclass.files.manifest import MANIFEST, check_manifest, sha256, write_manifest
from anyclass.files.names import csv_cell, csv_text, portable, slug
from anyclass.files.pace import Pace
from anyclass.files.storage import check_may_write, check_space, storage
from anyclass.files.temporary import (
    CONTINUED,
    orphans,
    sweep,
    temporary_folder,
    temporary_name,
)
from anyclass.files.tensors import write_tensors

__all__ = [
    "CONTINUED",
    "Json",
    "LOCKS",
    "MANIFEST",
    "Pace",
    "atomic_write",
    "cache_folder",
    "check_manifest",
    "check_may_write",
    "check_space",
    "csv_cell",
    "csv_text",
    "lock",
    "orphans",
    "portable",
    "read_json",
    "regular",
    "sha256",
    "slug",
    "storage",
    "sweep",
    "temporary_folder",
    "temporary_name",
    "write_json",
    "write_manifest",
    "write_tensors",
    "write_text",
]
