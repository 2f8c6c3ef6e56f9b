"""Name table of github.com/deepmind/dynamic-kanerva-machines (`memory.py`). Its default scope is KanervaMemory."""

from tfmem.checkpoints.base import Entry, name_table
from tfmem.cores.kanerva import KanervaMemory


@name_table(KanervaMemory)
def kanerva_memory(memory):
    """Table of the memory; its variables are created if necessary."""
    memory.initialize()
    yield Entry("prior_mean/w", memory.prior_mean)
    yield Entry("prior_var_scale/w", memory.log_prior_var)
    yield Entry("w_stddev/w", memory.log_w_stddev)
    if memory.obs_noise_stddev <= 0:
        yield Entry("obs_stdddev/w", memory.log_obs_stddev)  # three d in the public code
