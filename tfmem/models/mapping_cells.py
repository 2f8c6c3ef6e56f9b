"""Cells that map: a cell whose output also answers where a patch has been seen, and a model of such a cell.

`locate(query, output)` maps queries [..., 3, 3, 4] and the cell's outputs [..., B, ...] to logits [..., S, S] over the
locations of the mapping task. The first tensor of the output is what a policy reads.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.interop import model_cell
from tfmem.models.sequence import Head
from tfmem.recurrence import project_inputs, step, swap_batch_and_time, unroll
from tfmem.signatures import mapped_signatures
from tfmem.validation import positive_int

VIEW, CHANNELS = 3, 4  # side and channels of views and queries


class MappingOutput(NamedTuple):
    """Output of a `MappingCell`.

    coarsest: grid of the writer's last layer at its coarsest level, [B, base, base, C].
    memories: grids of all layers, coarsest level first, which the reader sees.
    """

    coarsest: tf.Tensor
    memories: tuple


@keras.saving.register_keras_serializable(package="tfmem")
class MappingCell(keras.layers.Layer):
    """The writer of a `LocalizationModel` as a cell, with its reader as `locate`.

    Args:
      network: a `LocalizationModel` without normalization. Its first query size is that of `locate`.

    Call arguments: views [B, base, base, channels] and a state. Returns (`MappingOutput`, state).

    Raises:
      ValueError: the network normalizes, or views have another shape.
    """

    input_layout = "side, side, channels"

    def __init__(self, network, **kwargs):
        super().__init__(**kwargs)
        if network.writer.normalization:
            raise ValueError(f"normalization: {network.writer.normalization!r}, must be None for an agent's memory")
        self.network = network
        hand_on_trainable(self)

    def build(self, input_shape):
        base, channels = self.network.base_size, self.network.view_channels
        view = (base, base, channels)
        if tuple(input_shape[-3:]) != view:
            raise ValueError(f"inputs: shape {tuple(input_shape[-3:])}, must be {view}, the view alone")
        if not self.network.built:
            self.network.build()

    @property
    def state_size(self):
        return tuple(layer.state_size for layer in self.network.writer.layers)

    @property
    def output_size(self):
        *layers, last = (layer.output_size for layer in self.network.writer.layers)
        return MappingOutput(last[0], (*layers, last))

    def get_initial_state(self, batch_size=None):
        return self.network.get_initial_state(batch_size)

    def step(self, inputs, states):
        memories, states = self.network.writer.step((inputs,), states)
        return MappingOutput(memories[-1][0], tuple(memories)), states

    def call(self, inputs, states, training=False):
        return self.step(inputs, tf.nest.pack_sequence_as(self.state_size, tf.nest.flatten(states)))

    def locate(self, query, output):
        return self.network.read(self.network.query_sizes[0], query, output.memories)

    def get_config(self):
        return {**super().get_config(), "network": keras.saving.serialize_keras_object(self.network)}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("network")), **config)


@keras.saving.register_keras_serializable(package="tfmem")
class LocalizingCell(keras.layers.Layer):
    """Any core as a cell, with an MLP over its output and the query as `locate`.

    Not specified; we use it for baselines.

    Args:
      core: a core of `tfmem.cores`, Sonnet's or Keras's.
      map_size: side S of the map of locations.
      mlp_sizes: widths of the ReLU layers before the logits.

    Call arguments: as the core's. Returns (the core's output, state).

    Raises:
      ValueError: `core` is not a core, or a size is not a positive integer.
    """

    def __init__(self, core, map_size, mlp_sizes=(), **kwargs):
        super().__init__(**kwargs)
        self.cell = model_cell(core)
        self.map_size = positive_int("map_size", map_size)
        self.locator = Head(map_size**2, mlp_sizes, name="locator", dtype=self.dtype_policy)
        hand_on_trainable(self)

    def build(self, input_shape):
        if not self.cell.built:
            self.cell.build(input_shape)
        self.query_size = VIEW * VIEW * CHANNELS
        self.read_shape = tf.TensorShape(tf.nest.flatten(self.cell.output_size)[0])
        self.locator.build((None, self.read_shape.num_elements() + self.query_size))

    @property
    def state_size(self):
        return self.cell.state_size

    @property
    def output_size(self):
        return self.cell.output_size

    def get_initial_state(self, batch_size=None):
        return self.cell.get_initial_state(batch_size=batch_size)

    def project_inputs(self, inputs):
        return project_inputs(self.cell, inputs)

    def step(self, projected, states):
        return step(self.cell, projected, states)

    def call(self, inputs, states, training=False):
        return self.step(self.project_inputs(inputs), states)

    def locate(self, query, output):
        first = tf.nest.flatten(output)[0]
        leading = tf.shape(query)[:-3]
        query = tf.reshape(query, tf.concat([leading, [self.query_size]], 0))
        read = tf.reshape(first, tf.concat([leading, [self.read_shape.num_elements()]], 0))
        logits = self.locator(tf.concat([read, tf.cast(query, read.dtype)], -1))
        return tf.reshape(logits, tf.concat([leading, [self.map_size, self.map_size]], 0))

    def get_config(self):
        return {
            **super().get_config(),
            "core": keras.saving.serialize_keras_object(self.cell),
            "map_size": self.map_size,
            "mlp_sizes": self.locator.mlp_sizes,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("core")), **config)


@keras.saving.register_keras_serializable(package="tfmem")
class CoreLocalizationModel(keras.Model):
    """Mapping and localization with any core of vectors: a baseline with inputs and outputs of a `LocalizationModel`.

    Not specified: how a baseline gets the query; we give it to the core too, so that reads can look for it.

    Args:
      core: as of `LocalizingCell`; its inputs are view and query, 72 numbers.
      map_size, locator_sizes: as of `LocalizingCell`.

    Call arguments: a dict of "observation" and "query_3", both [B, T, 3, 3, 4]; optional `initial_state`. Returns a
    dict "logits_3" [B, T, S, S]; with `return_state=True`, (dict, state).
    """

    query_sizes = (VIEW,)

    def __init__(self, core, map_size, locator_sizes=(), **kwargs):
        super().__init__(**kwargs)
        self.map_size = map_size
        self.cell = LocalizingCell(core, map_size, locator_sizes, dtype=self.dtype_policy)
        hand_on_trainable(self)

    def build(self, input_shape=None):
        self.cell.build((None, 2 * VIEW * VIEW * CHANNELS))
        self.built = True

    def get_initial_state(self, batch_size):
        return self.cell.get_initial_state(batch_size)

    def core_inputs(self, inputs):
        """View and query of each step as a vector, [..., 72]."""
        both = tf.concat([inputs["observation"], inputs["query_3"]], -1)
        return tf.reshape(both, [*tf.unstack(tf.shape(both)[:-3]), 2 * VIEW * VIEW * CHANNELS])

    def run(self, inputs, state):
        """`call`, time-major: inputs [T, B, ...] and state to (dict of logits [T, B, S, S], state)."""
        inputs = {name: tf.cast(x, self.compute_dtype) for name, x in inputs.items()}
        outputs, state = unroll(self.cell, self.core_inputs(inputs), state)
        return {"logits_3": self.cell.locate(inputs["query_3"], outputs)}, state

    def call(self, inputs, initial_state=None, return_state=False):
        if initial_state is None:
            initial_state = self.get_initial_state(tf.shape(inputs["observation"])[0])
        logits, state = self.run(swap_batch_and_time(inputs), initial_state)
        logits = swap_batch_and_time(logits)
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""

        def specs(*leading):
            return {n: tf.TensorSpec([*leading, VIEW, VIEW, CHANNELS]) for n in ("observation", "query_3")}

        return mapped_signatures(self, specs)

    def get_config(self):
        config = self.cell.get_config()
        return {
            **super().get_config(),
            "core": config["core"],
            "map_size": self.map_size,
            "locator_sizes": config["mlp_sizes"],
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("core")), **config)
