"""A data source that needs numpy only, for the toy experiment in a bundle."""

import os
import signal

import numpy as np


class Source:
    """Batches of the toy regression; `kill_at`: the batch at which the process kills itself."""

    def __init__(self, width, seed, kill_at):
        self.width, self.seed, self.kill_at = width, seed, kill_at

    def batch(self, number):
        if number == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        rng = np.random.default_rng([self.seed, number])
        inputs = rng.normal(size=(8, self.width)).astype(np.float32)
        return {"inputs": inputs, "targets": inputs.sum(-1, keepdims=True)}


def source(width, seed):
    """The source; TFMEM_TEST_KILL_AT names the batch at which a kill -9 comes."""
    return Source(width, seed, int(os.environ.get("TFMEM_TEST_KILL_AT", -1)))
