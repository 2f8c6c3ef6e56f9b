"""Base of all Keras cells: the core contract of `tfmem.cores.base` as a Keras layer.

A cell maps `(inputs [B, features], states) -> (output, next states)`; its state is a NamedTuple. As in Sonnet cores,
`project_inputs` does the state-independent work for any leading dimensions, and `step` the rest.

Options of every cell, with Keras's names:

    kernel_, recurrent_, bias_ + initializer, regularizer, constraint
                                  of the matrices that multiply the state ("recurrent"), of all others and of the
                                  biases, if a cell has such weights; the cell's own initializer by default
    dropout, recurrent_dropout    fractions of the input's and of the hidden state's units that `tfmem.RNN` drops in
                                  training, the same units at all steps of a sequence; a single call of the cell with
                                  `training=True` draws for its own step
    seed                          of the dropout
"""

import tensorflow as tf

from tfmem.backend import keras
from tfmem.cores.base import matmul
from tfmem.recurrence import checked_inputs, project_inputs, reserve, same_batch, scan_of

_KINDS = {
    "initializer": keras.initializers,
    "regularizer": keras.regularizers,
    "constraint": keras.constraints,
}


class Options:
    """Mixin with the options above for a `keras.layers.Layer` that is a cell; `roles` lists its kinds of weights.

    `add_weight(role=...)` applies the options; `step` takes the dropout mask of `recurrent_units`.
    """

    roles = ("kernel", "recurrent", "bias")

    def __init__(self, dropout=0.0, recurrent_dropout=0.0, seed=None, **kwargs):
        given = {name: kwargs.pop(name) for name in self._names() if name in kwargs}
        super().__init__(**kwargs)
        for name, kind in self._names().items():
            setattr(self, name, _KINDS[kind].get(given.get(name)))
        for name, rate in (("dropout", dropout), ("recurrent_dropout", recurrent_dropout)):
            if not 0 <= rate < 1:
                raise ValueError(f"{name}: {rate!r}, must be from 0 to less than 1")
        self.dropout, self.recurrent_dropout, self.seed = dropout, recurrent_dropout, seed
        self.roles_with_weights = []
        if dropout or recurrent_dropout:
            self.seed_generator = keras.random.SeedGenerator(seed)

    @classmethod
    def _names(cls):
        return {f"{role}_{kind}": kind for role in cls.roles for kind in _KINDS}

    def given_options(self):
        """Weight options that are not None, as keyword arguments of another cell."""
        return {name: _another(getattr(self, name)) for name in self._names() if getattr(self, name) is not None}

    def add_weight(self, *args, role=None, initializer=None, own_initializer=False, **kwargs):
        """Add a weight as Keras does, with the options of a role; `own_initializer` keeps the given initializer."""
        if role is not None:
            if not own_initializer:
                initializer = self.next_initializer(role) or initializer
            kwargs |= {kind: getattr(self, f"{role}_{kind}") for kind in ("regularizer", "constraint")}
        return super().add_weight(*args, initializer=initializer, **kwargs)

    def next_initializer(self, role):
        """Copy of the user's initializer for one more weight of a role; None if there is none."""
        given = getattr(self, f"{role}_initializer")
        self.roles_with_weights.append(role)
        return given if self.roles_with_weights.count(role) == 1 else _another(given)

    def recurrent_units(self, states):
        """Nest of a state's tensors that `recurrent_dropout` applies to."""
        return states.hidden

    def get_config(self):
        weights = {name: _KINDS[kind].serialize(getattr(self, name)) for name, kind in self._names().items()}
        rates = {"dropout": self.dropout, "recurrent_dropout": self.recurrent_dropout, "seed": self.seed}
        return {**super().get_config(), **weights, **rates}


def _another(option):
    """Copy of an initializer that draws other numbers (one object repeats its draw); other options unchanged."""
    return option.clone() if isinstance(option, keras.initializers.Initializer) else option


class Dropped:
    """A cell in training, with one draw of its dropout; `unroll` runs it in place of the cell."""

    def __init__(self, cell, inputs, states):
        def draw(nest, rate):
            def ones(x):
                return keras.random.dropout(tf.ones_like(x), rate, seed=cell.seed_generator)

            return tf.nest.map_structure(ones, nest) if rate else None

        self.cell = cell
        self.inputs = draw(inputs, cell.dropout)
        self.recurrent = draw(cell.recurrent_units(states), cell.recurrent_dropout)

    def project_inputs(self, inputs):
        if self.inputs is not None:
            inputs = tf.nest.map_structure(tf.multiply, inputs, self.inputs)
        return self.cell.project_inputs(inputs)

    def step(self, projected, states):
        return self.cell.step(projected, states, self.recurrent)

    def reserve(self, states, num_steps):
        return reserve(self.cell, states, num_steps)

    @property
    def scan(self):
        """The cell's own, if the hidden state keeps all its units."""
        found = scan_of(self.cell)
        if self.recurrent is not None or found is None:
            raise AttributeError("scan")
        return found

    @property
    def scans_masks(self):
        return self.cell.scans_masks


class DroppedStack:
    """`keras.layers.StackedRNNCells` in training, with one draw of dropout for every cell."""

    def __init__(self, stack, inputs, states):
        self.cells = []
        for cell, state in zip(stack.cells, states, strict=True):
            self.cells.append(with_dropout(cell, inputs, state))
            if isinstance(cell.output_size, int):
                first = tf.nest.flatten(inputs)[0]
                inputs = tf.ones([tf.shape(first)[0], cell.output_size], first.dtype)

    def step(self, inputs, states):
        left = []
        for cell, state in zip(self.cells, states, strict=True):
            if hasattr(cell, "step"):
                inputs, new = cell.step(project_inputs(cell, inputs), state)
            else:  # Keras's own cells
                inputs, new = cell(inputs, tf.nest.flatten(state), training=True)
            left.append(tf.nest.pack_sequence_as(state, tf.nest.flatten(new)))
        return inputs, left


def with_dropout(cell, inputs, states):
    """Return the cell in training on steps like `inputs` [B, ...] from `states`; itself if it has no dropout."""
    if isinstance(cell, keras.layers.StackedRNNCells):
        drops = any(isinstance(c, Options) and (c.dropout or c.recurrent_dropout) for c in cell.cells)
        return DroppedStack(cell, inputs, states) if drops else cell
    drops = isinstance(cell, Options) and (cell.dropout or cell.recurrent_dropout)
    return Dropped(cell, inputs, states) if drops else cell


def drop(x, mask):
    """Apply a dropout mask from `Dropped` to `x`; None drops nothing."""
    return x if mask is None else x * mask


class Cell(Options, keras.layers.Layer):
    """Base of the recurrent cells: `call` is `step(project_inputs(inputs), states)`.

    Subclasses define `state_size` (nest of tf.TensorShape without the batch), `output_size`, `build`, `project_inputs`,
    `step`, `get_initial_state` and `get_config`.
    """

    input_layout = "features"  # axes of an input after the batch

    def ensure_built(self, inputs):
        """Create the variables if an unroll calls `project_inputs` before any `call`."""
        if not self.built:
            self.build(inputs.shape)

    def call(self, inputs, states, training=False):
        # keras.layers.RNN turns the NamedTuple into a tuple.
        inputs = checked_inputs(self, inputs, states)
        states = same_batch(inputs, tf.nest.pack_sequence_as(self.state_size, tf.nest.flatten(states)))
        cell = with_dropout(self, inputs, states) if training else self
        return cell.step(cell.project_inputs(inputs), states)

    def zero_state(self, batch_size, dtype):
        """State of zeros in the shapes of `state_size`."""
        dtype = dtype or self.compute_dtype
        return tf.nest.map_structure(lambda shape: tf.zeros([batch_size, *shape], dtype), self.state_size)


def linear(inputs, kernel, bias=None):
    """Compute `inputs kernel + bias` on the last axis, in the dtype of the inputs."""
    return matmul(inputs, kernel, bias)


def tile_batch(variable, batch_size, dtype):
    """Repeat a variable [...] to [batch_size, ...]."""
    value = tf.cast(variable, dtype)
    return tf.tile(value[tf.newaxis], [batch_size] + [1] * value.shape.rank)
