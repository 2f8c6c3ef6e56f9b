"""`tfmem.RNN`: the Keras layer that runs a memory core over sequences."""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.keras_base import with_dropout
from tfmem.recurrence import unroll


@keras.saving.register_keras_serializable(package="tfmem")
class RNN(keras.layers.RNN):
    """`keras.layers.RNN` for cells with memories: nests of tensors of any shape as inputs, states and outputs.

    Runs `tfmem.unroll`, so that a cell's `project_inputs` sees the whole sequence at once.

    Args:
      cell: a Keras RNN cell, such as those of `tfmem.cores` or `tfmem.as_keras_cell(core)`; or a list of them, stacked.
      return_sequences: whether to return the outputs of all steps or of the last. Default False.
      return_state: whether to return the final state as well: `output, *state`. Default False.
      go_backwards: whether to run from the last step to the first; the outputs are in the order of the run. Default
        False.
      stateful: whether a call starts from the final state of the call before (first, and after `reset_state()`: from
        the cell's initial state). The batch size must be fixed. States kept so are no weights and are not saved; pass
        `initial_state` where that matters. Default False.
      zero_output_for_mask: whether masked steps give zeros and not the output of the step before. Default False.

    Call arguments:
      sequences: nest of tensors [B, T, ...].
      initial_state: the state to start from, in any nest with the tensors of the cell's own state in their order (so
        that `layer(x, initial_state=state)` takes what `output, *state = layer(x)` gave). Default: the cell's own.
      mask: bool [B, T]; steps where it is False leave the state as it was, and repeat the output of the last valid
        step (zeros where there is none).

    Returns:
      The output, a nest of [B, T, ...] or [B, ...]; with `return_state` a tuple `(output, *state)`. Floating outputs
      are in the layer's compute dtype, states in the cell's dtypes.

    Raises:
      ValueError: `unroll=True`, or the tensors of `initial_state` are not those of the cell's state.
    """

    def __init__(self, cell, *args, **kwargs):
        super().__init__(cell, *args, **kwargs)
        if self.unroll:
            raise ValueError("unroll was True, must be False: tfmem.RNN loops; snt.static_unroll repeats the body")
        hand_on_trainable(self)

    def build(self, sequences_shape, initial_state_shape=None):
        if not self.cell.built:
            self.cell.build(keras.tree.map_shape_structure(lambda shape: (shape[0], *shape[2:]), sequences_shape))
        if self.stateful:
            batch_sizes = []
            keras.tree.map_shape_structure(lambda shape: batch_sizes.append(shape[0]), sequences_shape)
            if batch_sizes[0] is None:
                raise ValueError(f"stateful needs a fixed batch size, the inputs have the shape {sequences_shape}")
            with tf.init_scope():
                initial_state = self.get_initial_state(batch_sizes[0])
                self.states = [tf.Variable(s, trainable=False) for s in tf.nest.flatten(initial_state)]

    def get_initial_state(self, batch_size):
        return self.cell.get_initial_state(batch_size=batch_size)

    def reset_state(self):
        """Back to the cell's own initial state (stateful layers)."""
        if self.states is not None:
            initial_state = tf.nest.flatten(self.get_initial_state(self.states[0].shape[0]))
            for variable, value in zip(self.states, initial_state, strict=True):
                variable.assign(value)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        inputs = tf.nest.map_structure(lambda x: _time_major(_cast(x, self.cell.compute_dtype)), sequences)
        first = tf.nest.flatten(inputs)[0]
        batch_size = tf.shape(first)[1] if first.shape[1] is None else first.shape[1]
        state = self._start(initial_state, self.get_initial_state(batch_size))
        mask = _first(mask)
        if mask is not None:
            mask = _time_major(tf.cast(mask, tf.bool))
        if self.go_backwards:
            inputs = tf.nest.map_structure(lambda x: tf.reverse(x, [0]), inputs)
            mask = None if mask is None else tf.reverse(mask, [0])

        cell = self.cell
        if training:
            cell = with_dropout(cell, tf.nest.map_structure(lambda x: x[0], inputs), state)
        outputs, state = unroll(cell, inputs, state, mask=mask)
        for cell in [
            self.cell,
            *getattr(self.cell, "cells", []),
        ]:  # Keras's cells hold on to a sequence's dropout masks
            for reset in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
                getattr(cell, reset, lambda: None)()
        if self.stateful:
            for variable, value in zip(self.states, tf.nest.flatten(state), strict=True):
                variable.assign(value)

        outputs = tf.nest.map_structure(lambda x: _cast(_time_major(x), self.compute_dtype), outputs)
        if mask is not None and not (self.zero_output_for_mask and self.return_sequences):
            steps = _last_valid(_time_major(mask))
            steps = steps if self.return_sequences else steps[:, -1:]
            outputs = tf.nest.map_structure(lambda x: _at(x, steps), outputs)
        if not self.return_sequences:
            outputs = tf.nest.map_structure(lambda x: x[:, -1], outputs)
        return (outputs, *_as_list(state)) if self.return_state else outputs

    def _start(self, initial_state, own):
        """The state that a call starts from, in the structure and dtypes of the cell's own initial state."""
        if initial_state is None:
            initial_state = self.states if self.stateful else own
        given, wanted = tf.nest.flatten(initial_state), tf.nest.flatten(own)
        if len(given) != len(wanted) or not all(map(_fits, given, wanted)):
            raise ValueError(
                f"initial_state had the tensors {[tuple(g.shape) for g in given]}, must have those of the cell's "
                f"state: {[tuple(w.shape) for w in wanted]}"
            )
        cast = [tf.cast(g, w.dtype) for g, w in zip(given, wanted, strict=True)]
        return tf.nest.pack_sequence_as(own, cast)

    def compute_output_spec(self, *args, **kwargs):
        # By tracing `call`, which knows the shapes and dtypes of any nest.
        return keras.Operation.compute_output_spec(self, *args, **kwargs)

    def compute_output_shape(self, sequences_shape, initial_state_shape=None):
        if not self.built:
            self.build(sequences_shape)
        sequences = keras.tree.map_shape_structure(
            lambda shape: keras.KerasTensor(shape, dtype=self.compute_dtype), sequences_shape
        )
        return keras.tree.map_structure(lambda x: x.shape, self.compute_output_spec(sequences))

    def compute_mask(self, sequences, mask):
        mask = _first(mask)
        return [mask] * len(tf.nest.flatten(getattr(self.cell, "output_size", None))) if self.return_sequences else None


def _fits(given, wanted):
    """Whether the shapes agree but for the batch; a table that grows starts with 0 rows."""
    sizes = zip(given.shape[1:], wanted.shape[1:], strict=True)
    return given.shape.rank == wanted.shape.rank and all(g == w or w in (0, None) or g is None for g, w in sizes)


def _as_list(state):
    return list(state) if isinstance(state, tuple | list) else [state]


def _first(mask):
    """The one mask of a layer with several inputs."""
    return next((m for m in tf.nest.flatten(mask) if m is not None), None)


def _cast(x, dtype):
    x = tf.convert_to_tensor(x)
    return tf.cast(x, dtype) if x.dtype.is_floating else x


def _time_major(x):
    """[B, T, ...] to [T, B, ...], and back."""
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)])


def _last_valid(mask):
    """For every step the index of the last valid step up to it, -1 where there is none: bool [B, T] to int32 [B, T]."""
    steps = tf.range(tf.shape(mask)[1])
    valid_steps = tf.sort(tf.where(mask, steps, tf.int32.max), axis=1)
    count = tf.cumsum(tf.cast(mask, tf.int32), axis=1)
    return tf.where(count > 0, tf.gather(valid_steps, tf.maximum(count - 1, 0), batch_dims=1), -1)


def _at(x, steps):
    """x [B, T, ...] at `steps` [B, K], zeros where a step is -1: [B, K, ...]."""
    found = tf.gather(x, tf.maximum(steps, 0), batch_dims=1)
    exists = tf.reshape(steps >= 0, tf.concat([tf.shape(steps), [1] * (x.shape.rank - 2)], 0))
    return tf.where(exists, found, tf.zeros_like(found))
