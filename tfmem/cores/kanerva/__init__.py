"""The dynamic Kanerva machine's memory (`memory`) and the LSTM around it (`core`)."""

from tfmem.cores.kanerva.core import KanervaCore, KanervaCoreState, ReadOnlyKanerva
from tfmem.cores.kanerva.memory import KanervaMemory, MemoryState, innovate, posterior, solve_w

_ReadOnly = ReadOnlyKanerva  # its name in files of before this was a package

__all__ = ["KanervaCore", "KanervaCoreState", "KanervaMemory", "MemoryState", "innovate", "posterior", "solve_w"]
