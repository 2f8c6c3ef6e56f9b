"""Models of sequences: a memory core, and what reads its output."""

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import Linear
from tfmem.recurrence import unroll


class SequenceModel(snt.Module):
    """A core over a sequence, then an MLP on its last output, then logits: the Nth-farthest model of Santoro et al.

    Santoro et al. 2018, appendix A.1; Sonnet 1's examples/rmc_nth_farthest.py. The core starts from its initial
    state; ReLU follows every layer of the MLP, the last one included.

    Args:
      core: any core with `initial_state` (see `tfmem.cores`) whose output is one tensor [B, ...]; it is flattened.
      output_size: number of logits.
      mlp_sizes: widths of the MLP's layers; the paper's are four of 256 for every core it compares.
      name: name of the module.
    """

    def __init__(self, core, output_size, mlp_sizes=(256, 256, 256, 256), name=None):
        super().__init__(name=name)
        self.core = core
        self.output_size = output_size
        self.mlp_sizes = tuple(mlp_sizes)
        self.mlp = [Linear(size, name=f"mlp_{i}") for i, size in enumerate(self.mlp_sizes)]
        self.output = Linear(output_size, name="output")

    def __call__(self, inputs):
        """Logits [B, output_size] of batch-major inputs [B, T, ...]."""
        inputs = tf.convert_to_tensor(inputs)
        sequence = tf.transpose(inputs, [1, 0, *range(2, inputs.shape.rank)])
        outputs, _ = unroll(self.core, sequence, self.core.initial_state(tf.shape(inputs)[0], dtype=inputs.dtype))
        hidden = snt.flatten(outputs[-1])
        for layer in self.mlp:
            hidden = tf.nn.relu(layer(hidden))
        return self.output(hidden)
