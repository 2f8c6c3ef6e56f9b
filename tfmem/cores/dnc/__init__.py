"""Differentiable neural computer (Graves et al. 2016): addressing, access, core."""

from tfmem.cores.dnc.access import AccessState, MemoryAccess
from tfmem.cores.dnc.addressing import TemporalLinkageState
from tfmem.cores.dnc.core import DNC, DNCState

__all__ = ["DNC", "AccessState", "DNCState", "MemoryAccess", "TemporalLinkageState"]
