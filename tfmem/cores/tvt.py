"""Complete core of the public RMA agent: slot memory, policy and baseline.

Paper: Hung et al. 2019, "Optimizing agent behavior over long time scales by transporting value".
Public code: deepmind-research `tvt/rma.py`, `_RMACore` and `Policy`:

    z, h, r = RMACore(x), order "code"
    logits = clip(MLP([z, h, r]))
    baseline = clip(MLP([z, sg(logits)]))

where clip is the identity with its gradient clipped to [-10, 10] elementwise.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.cores.base import Linear, ReadOnly, RNNCore
from tfmem.cores.rma import RMACore
from tfmem.cores.rma_memory import ReadInformation
from tfmem.losses.gradients import clip_gradient
from tfmem.validation import check_positive


class TVTOutput(NamedTuple):
    policy: tf.Tensor  # [B, num_actions] logits
    baseline: tf.Tensor  # [B]
    z: tf.Tensor  # [B, D], the written word; the public agent reconstructs its observation from it
    read_info: ReadInformation


def mlp(layers, x):
    for layer in layers[:-1]:
        x = tf.tanh(layer(x))
    return layers[-1](x)


class TVTCore(RNNCore):
    """RMA core with policy and baseline heads, `_RMACore` of tvt/rma.py. Output: `TVTOutput`; state: `RMAState`.

    The public core also draws the action; here the agent does, from the logits. The defaults are the constants of the
    public code.

    Args:
      num_actions: number of discrete actions.
      num_latents: D, width of the written word.
      control_hidden_size: units of each LSTM layer.
      control_num_layers: LSTM layers.
      memory_size: K, rows.
      memory_num_reads: H, reads per step.
      memory_top_k: rows in each read; 0 for all.
      num_policy_hiddens: widths of the hidden tanh layers of the policy.
      baseline_mlp_num_hiddens: the same for the baseline.
      policy_clip_abs_value: bound of the gradients of logits and baseline; 0 for none.

    Raises:
      ValueError: an argument is out of range.
    """

    input_layout = "features"

    def __init__(
        self,
        num_actions,
        num_latents=200,
        control_hidden_size=256,
        control_num_layers=2,
        memory_size=1000,
        memory_num_reads=3,
        memory_top_k=50,
        num_policy_hiddens=(200,),
        baseline_mlp_num_hiddens=(200,),
        policy_clip_abs_value=10.0,
        name=None,
    ):
        super().__init__(name=name)
        check_positive(num_actions=num_actions)
        if policy_clip_abs_value < 0:
            raise ValueError(f"policy_clip_abs_value: {policy_clip_abs_value!r}, must be at least 0 (0: no clipping)")
        self.num_actions = num_actions
        self.num_latents = num_latents
        self.control_hidden_size = control_hidden_size
        self.control_num_layers = control_num_layers
        self.memory_size = memory_size
        self.memory_num_reads = memory_num_reads
        self.memory_top_k = memory_top_k
        self.num_policy_hiddens = tuple(num_policy_hiddens)
        self.baseline_mlp_num_hiddens = tuple(baseline_mlp_num_hiddens)
        self.policy_clip_abs_value = policy_clip_abs_value

        self.rma = RMACore(
            control_hidden_size,
            memory_size,
            num_latents,
            memory_num_reads,
            memory_top_k,
            control_num_layers,
            order="code",
            name="rma",
        )
        self.policy_mlp = [Linear(n, name="policy") for n in (*self.num_policy_hiddens, num_actions)]
        self.baseline_mlp = [Linear(n, name="baseline") for n in (*self.baseline_mlp_num_hiddens, 1)]

    @property
    def state_size(self):
        return self.rma.state_size

    @property
    def output_size(self):
        num_weights = self.memory_top_k or self.memory_size
        heads = self.memory_num_reads
        return TVTOutput(
            policy=tf.TensorShape([self.num_actions]),
            baseline=tf.TensorShape([]),
            z=tf.TensorShape([self.num_latents]),
            read_info=ReadInformation(
                weights=tf.TensorShape([heads, num_weights]),
                indices=tf.TensorShape([heads, num_weights]),
                keys=tf.TensorShape([heads, self.num_latents]),
                strengths=tf.TensorShape([heads]),
            ),
        )

    def initial_state(self, batch_size, dtype=tf.float32):
        return self.rma.initial_state(batch_size, dtype)

    def read_only(self):
        """View of this core with the same variables that never writes."""
        return ReadOnly(self)

    def project_inputs(self, inputs):
        """Contribution of inputs [..., B, features] to the word."""
        heads = ((self.policy_mlp, self.rma.output_size), (self.baseline_mlp, self.num_latents + self.num_actions))
        for layers, size in heads:
            for layer in layers:
                layer.initialize(size, inputs.dtype)
                size = layer.output_size
        return self.rma.project_inputs(inputs)

    def step(self, projected, state, write=True):
        z, controller, reads, read_info, state = self.rma.parts(projected, state, write)
        policy = self._clip(mlp(self.policy_mlp, tf.concat([z, controller, reads], -1)))
        baseline = mlp(self.baseline_mlp, tf.concat([z, tf.stop_gradient(policy)], -1))
        baseline = self._clip(tf.squeeze(baseline, -1))
        return TVTOutput(policy, baseline, z, read_info), state

    def _clip(self, x):
        limit = self.policy_clip_abs_value
        return clip_gradient(x, -limit, limit) if limit else x
