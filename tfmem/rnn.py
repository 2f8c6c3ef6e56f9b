"""The Keras layer `tfmem.RNN`, which runs a memory core over sequences."""

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.keras_base import with_dropout
from tfmem.recurrence import check_sequences, input_axes, same_batch, swap_batch_and_time, unroll


@keras.saving.register_keras_serializable(package="tfmem")
class RNN(keras.layers.RNN):
    """`keras.layers.RNN` for cells with memories: nests of tensors of any shape as inputs, states and outputs.

    Uses `tfmem.unroll`, so that a cell's `project_inputs` gets the whole sequence at once.

    Args:
      cell: a Keras RNN cell, such as those of `tfmem.cores` or `tfmem.as_keras_cell(core)`; or a list of them, stacked.
      return_sequences: return the outputs of all steps, not only of the last. Default False.
      return_state: return the final state as well: `output, *state`. Default False.
      go_backwards: run from the last step to the first; the outputs are in the order of the run. Default False.
      stateful: start a call from the final state of the call before. The first call, and the first after
        `reset_state()`, start from the cell's initial state with its current weights. The batch size must be fixed.
        These states are not weights and are not saved; pass `initial_state` if they must be. Default False.
      zero_output_for_mask: masked steps give zeros instead of the output of the step before. Default False.

    Call arguments:
      sequences: nest of tensors [B, T, ...].
      initial_state: the state to start from, in any nest with the tensors of the cell's own state in their order, so
        `layer(x, initial_state=state)` accepts the state of `output, *state = layer(x)`. Default: the cell's own.
      mask: bool [B, T]; steps where it is False leave the state unchanged and repeat the output of the last valid step
        (zeros before the first).

    Returns:
      The output, a nest of [B, T, ...] or [B, ...]; with `return_state` a tuple `(output, *state)`. Floating outputs
      are in the layer's compute dtype, states in the cell's dtypes.

    Raises:
      ValueError: `cell` is not a Keras cell, or computes in another dtype than a half-precision layer; `unroll=True`;
        `stateful` with a state that grows or without a batch size; sequences, `mask` or `initial_state` of a shape or
        batch that does not fit. (For sizes unknown at tracing: InvalidArgumentError when the graph runs.)
    """

    def __init__(self, cell, *args, **kwargs):
        cells = list(cell) if isinstance(cell, list | tuple) else [cell]
        for each in cells:
            if isinstance(each, keras.layers.RNN):
                raise ValueError(f"cell: {each!r}, must be a cell and not a layer: give the layer's `cell`")
            if not isinstance(each, keras.layers.Layer) and hasattr(each, "initial_state"):
                raise ValueError(f"cell: {each!r}, must be a Keras cell: give tfmem.as_keras_cell(core)")
        super().__init__(cell, *args, **kwargs)
        if self.unroll:
            raise ValueError("unroll: True, must be False: tfmem.RNN loops; snt.static_unroll repeats the body")
        if isinstance(cell, keras.layers.StackedRNNCells):
            cells = cell.cells
        computed = sorted({getattr(each, "compute_dtype", self.compute_dtype) for each in cells})
        if self.compute_dtype != "float32" and computed != [self.compute_dtype]:
            raise ValueError(
                f"dtype: {self.dtype_policy.name!r}, must be float32 or that of the cell, which computes in "
                f"{computed[0]}: give the dtype to the cell as well"
            )
        hand_on_trainable(self)

    def build(self, sequences_shape, initial_state_shape=None):
        self._check_axes(sequences_shape)
        if not self.cell.built:
            self.cell.build(keras.tree.map_shape_structure(lambda shape: (shape[0], *shape[2:]), sequences_shape))
        if self.stateful:
            batch_sizes = []
            keras.tree.map_shape_structure(lambda shape: batch_sizes.append(shape[0]), sequences_shape)
            if batch_sizes[0] is None:
                raise ValueError(f"sequences: shape {sequences_shape}, must have a fixed batch size for stateful")
            if any(None in tf.TensorShape(size).as_list() for size in tf.nest.flatten(self.cell.state_size)):
                raise ValueError(
                    "stateful: True, must be False for a cell whose state grows; give the cell `max_steps`, or pass "
                    f"the state with return_state and initial_state. Its state_size is {self.cell.state_size}"
                )
            with tf.init_scope():
                initial_state = self.get_initial_state(batch_sizes[0])
                self.states = [tf.Variable(s, trainable=False) for s in tf.nest.flatten(initial_state)]
                # Before the first call the state is the cell's own, which may depend on its weights.
                self.has_state = tf.Variable(False, trainable=False)

    def get_initial_state(self, batch_size):
        return self.cell.get_initial_state(batch_size=batch_size)

    def reset_state(self):
        """Reset a stateful layer to the cell's own initial state."""
        if self.states is not None:
            initial_state = tf.nest.flatten(self.get_initial_state(self.states[0].shape[0]))
            for variable, value in zip(self.states, initial_state, strict=True):
                variable.assign(value)
            self.has_state.assign(False)

    def call(self, sequences, initial_state=None, mask=None, training=False):
        sequences = tf.nest.map_structure(lambda x: _cast(x, self.cell.compute_dtype), sequences)
        self._check_axes(tf.nest.map_structure(lambda x: x.shape, sequences))
        inputs = swap_batch_and_time(sequences)
        first = tf.nest.flatten(inputs)[0]
        batch_size = tf.shape(first)[1] if first.shape[1] is None else first.shape[1]
        own = self.get_initial_state(batch_size)
        if initial_state is not None:
            state = same_batch(sequences, self._start(initial_state, own), "initial_state")
        else:
            state = own
        if self.stateful:
            kept = same_batch(sequences, self.states, "the layer's state (stateful)")
            if initial_state is None:
                kept = tf.nest.pack_sequence_as(own, kept)
                state = tf.nest.map_structure(lambda k, o: tf.where(self.has_state, k, o), kept, own)
        mask = _first(mask)
        if mask is not None:
            mask = tf.cast(mask, tf.bool)
            known = tf.TensorShape([first.shape[1], first.shape[0]])
            if not mask.shape.is_compatible_with(known):
                raise ValueError(f"mask: shape {mask.shape}, must be [B, T], here {known}")
            mask = swap_batch_and_time(mask)
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
        ]:  # Keras's cells keep a sequence's dropout masks
            for reset in ("reset_dropout_mask", "reset_recurrent_dropout_mask"):
                getattr(cell, reset, lambda: None)()
        if self.stateful:
            left = list(zip(self.states, tf.nest.flatten(state), strict=True))
            if not all(value.shape.is_compatible_with(variable.shape) for variable, value in left):
                raise ValueError("stateful: True, must be False for a state that grows: give a larger `max_steps`")
            for variable, value in left:
                variable.assign(value)
            self.has_state.assign(True)

        outputs = tf.nest.map_structure(lambda x: _cast(x, self.compute_dtype), swap_batch_and_time(outputs))
        if mask is not None and not (self.zero_output_for_mask and self.return_sequences):
            steps = _last_valid(swap_batch_and_time(mask))
            steps = steps if self.return_sequences else steps[:, -1:]
            outputs = tf.nest.map_structure(lambda x: _at(x, steps), outputs)
        if not self.return_sequences:
            outputs = tf.nest.map_structure(lambda x: x[:, -1], outputs)
        return (outputs, *_as_list(state)) if self.return_state else outputs

    def _start(self, initial_state, own):
        """Return a given state in the structure and dtypes of the cell's own initial state."""
        given, wanted = tf.nest.flatten(initial_state), tf.nest.flatten(own)
        if len(given) != len(wanted) or not all(map(_fits, given, wanted)):
            raise ValueError(
                f"initial_state: shapes {[tuple(g.shape) for g in given]}, must be those of the cell's state: "
                f"{[tuple(w.shape) for w in wanted]}"
            )
        cast = [tf.cast(g, w.dtype) for g, w in zip(given, wanted, strict=True)]
        return tf.nest.pack_sequence_as(own, cast)

    def _check_axes(self, shapes):
        """Raise a ValueError if the sequences have too few or too many axes, or no time step."""
        found = []
        keras.tree.map_shape_structure(lambda shape: found.append(tuple(shape)), shapes)
        first_cell = getattr(self.cell, "cells", [self.cell])[0]
        cell = self.cell if hasattr(self.cell, "input_layout") else first_cell
        for shape in found if len(found) == 1 or input_axes(cell) is not None else ():
            check_sequences(cell, shape, "sequences")

    def compute_output_spec(self, *args, **kwargs):
        # Tracing `call` gives the shapes and dtypes of any nest. Keras marks the product of an input and a number as
        # sparse.
        def dense(x):
            return keras.KerasTensor(x.shape, x.dtype) if isinstance(x, keras.KerasTensor) and x.sparse else x

        args, kwargs = keras.tree.map_structure(dense, (args, kwargs))
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
        if mask is not None and self.go_backwards:  # the outputs are in the order of the run
            mask = keras.ops.flip(mask, axis=1)
        return [mask] * len(tf.nest.flatten(getattr(self.cell, "output_size", None))) if self.return_sequences else None


def _fits(given, wanted):
    """Return whether the shapes agree except in the batch; a table that grows starts with 0 rows."""
    sizes = zip(given.shape[1:], wanted.shape[1:], strict=True)
    return given.shape.rank == wanted.shape.rank and all(g == w or w in (0, None) or g is None for g, w in sizes)


def _as_list(state):
    return list(state) if isinstance(state, tuple | list) else [state]


def _first(mask):
    """The single mask of a layer with several inputs."""
    return next((m for m in tf.nest.flatten(mask) if m is not None), None)


def _cast(x, dtype):
    x = keras.ops.convert_to_tensor(x, sparse=False)
    return tf.cast(x, dtype) if x.dtype.is_floating else x


def _last_valid(mask):
    """Index of the last valid step up to each step, -1 if there is none: bool [B, T] to int32 [B, T]."""
    steps = tf.range(tf.shape(mask)[1])
    valid_steps = tf.sort(tf.where(mask, steps, tf.int32.max), axis=1)
    count = tf.cumsum(tf.cast(mask, tf.int32), axis=1)
    return tf.where(count > 0, tf.gather(valid_steps, tf.maximum(count - 1, 0), batch_dims=1), -1)


def _at(x, steps):
    """Gather x [B, T, ...] at `steps` [B, K], with zeros where a step is -1: [B, K, ...]."""
    found = tf.gather(x, tf.maximum(steps, 0), batch_dims=1)
    exists = tf.reshape(steps >= 0, tf.concat([tf.shape(steps), [1] * (x.shape.rank - 2)], 0))
    return tf.where(exists, found, tf.zeros_like(found))
