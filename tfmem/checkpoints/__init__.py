"""Weights of the public TF 1 implementations, loaded into tfmem's cores and models.

`load_tf1` is the only entry point; each file of this package holds the name tables of one public code base.
"""

from tfmem.checkpoints.base import CheckpointMismatchError, Entry, LoadReport, load_tf1, name_table

__all__ = ["CheckpointMismatchError", "Entry", "LoadReport", "load_tf1", "name_table"]
