"""Stepwise form of a Sequential or functional Keras model with `tfmem.RNN` layers: states in, states out.

The model's graph is copied with the same layers; each `tfmem.RNN` is replaced by one that starts from a given state and
stores its last. One step is a sequence of one step. Every other layer must therefore compute the same function at each
step. Random inputs check this: each layer's output for a short sequence must equal that of its single steps.
"""

import numpy as np
import tensorflow as tf

from tfmem.backend import keras
from tfmem.rnn import RNN
from tfmem.signatures import memory_signatures, state_specs

BATCH, STEPS = 2, 4  # of the random sequence
LOW_PRECISION = ("bfloat16", "float16")


class States:
    """States of a pass through a model, in the order of calls of its recurrent layers."""

    def __init__(self):
        self.start(None)

    def start(self, given):
        """Start the next pass from a list of states; None: from the layers' own."""
        self.given, self.layers, self.left = given, [], []


class StatefulStep(keras.layers.Layer):
    """Wrapper of a `tfmem.RNN` that reads its state from a `States` and writes it back.

    The state is a dict: "cell" is the cell's; with a mask, "output" is the output that masked steps repeat.
    """

    def __init__(self, rnn, states):
        super().__init__(name=rnn.name, autocast=False)
        self.supports_masking = self.built = True
        self.rnn, self.states = rnn, states
        zeros = rnn.zero_output_for_mask and rnn.return_sequences
        self.run = RNN(
            rnn.cell, return_sequences=True, return_state=True, zero_output_for_mask=zeros, dtype=rnn.dtype_policy
        )

    def call(self, sequences, initial_state=None, mask=None):
        if initial_state is not None:
            raise refusal(self.name, "the model gives it an initial_state")
        masks = [m for m in tf.nest.flatten(mask) if m is not None]
        repeats = bool(masks) and not self.run.zero_output_for_mask
        batch_size = tf.shape(tf.nest.flatten(sequences)[0])[0]
        own = self.rnn.get_initial_state(batch_size)
        given = {"cell": own} if self.states.given is None else self.states.given[len(self.states.left)]
        outputs, *state = self.run(sequences, initial_state=tf.nest.flatten(given["cell"]), mask=mask)
        before = given.get("output", zeros_like(outputs, batch_size))
        if repeats:
            seen = tf.cumsum(tf.cast(masks[0], tf.int32), axis=1) > 0
            outputs = tf.nest.map_structure(lambda o, b: select(seen, o, b[:, tf.newaxis]), outputs, before)
        last = tf.nest.map_structure(lambda o, b: tf.concat([b[:, tf.newaxis], o], 1)[:, -1], outputs, before)
        left = {"cell": tf.nest.pack_sequence_as(own, tf.nest.flatten(state))}
        self.states.layers.append(self)
        self.states.left.append({**left, "output": last} if repeats else left)
        result = outputs if self.rnn.return_sequences else last
        return (result, *state) if self.rnn.return_state else result

    def compute_mask(self, inputs, previous_mask):
        return self.rnn.compute_mask(inputs, previous_mask)

    def initial(self, left, batch_size):
        """Initial state of a sequence, in the structure of the stored state `left`."""
        own = {"cell": self.rnn.get_initial_state(batch_size)}
        if "output" in left:
            own["output"] = tf.nest.map_structure(
                lambda o: tf.zeros([batch_size, *o.shape[1:]], o.dtype), left["output"]
            )
        return own

    def specs(self, left):
        found = {"cell": state_specs(self.rnn.cell, left["cell"])}
        if "output" in left:
            found["output"] = tf.nest.map_structure(
                lambda o: tf.TensorSpec([None, *o.shape[1:]], o.dtype), left["output"]
            )
        return found


class EachStep(keras.layers.Layer):
    """`keras.layers.TimeDistributed` for an unknown number of steps, where Keras 3.15 uses the batch size."""

    def __init__(self, distributed):
        super().__init__(name=distributed.name, autocast=False)
        self.supports_masking = self.built = True
        self.layer = distributed.layer

    def call(self, x, mask=None):
        merged = tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], 0))
        merged.set_shape([None, *x.shape[2:]])
        y = self.layer(merged)
        outputs = tf.reshape(y, tf.concat([tf.shape(x)[:2], tf.shape(y)[1:]], 0))
        outputs.set_shape([*x.shape[:2], *y.shape[1:]])
        return outputs


class Watched(keras.Operation):
    """Wrapper of any other layer or operation that appends it and its outputs to `seen`."""

    def __init__(self, operation, seen):
        super().__init__(name=operation.name)
        self.operation, self.seen = operation, seen

    def call(self, *args, **kwargs):
        outputs = self.attempt(self.operation, *args, **kwargs)
        self.seen.append((self.operation, outputs))
        return outputs

    def compute_output_spec(self, *args, **kwargs):
        return self.attempt(self.operation.compute_output_spec, *args, **kwargs)

    def attempt(self, call, *args, **kwargs):
        try:
            return call(*args, **kwargs)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise refusal(self.name, str(error)) from error


def refusal(name, why):
    return ValueError(f"model_or_core: layer {name!r}, must compute the same at every step: {why}")


def zeros_like(outputs, batch_size):
    """Zeros [B, ...] for outputs [B, T, ...]."""
    return tf.nest.map_structure(lambda o: tf.zeros([batch_size, *o.shape[2:]], o.dtype), outputs)


def select(condition, x, y):
    """Select x [B, T, ...] where condition [B, T], else y."""
    return tf.where(tf.reshape(condition, tf.concat([tf.shape(condition), [1] * (x.shape.rank - 2)], 0)), x, y)


def has_time(x):
    """Return whether a model's input is a sequence [B, T, ...]; floats [B, 6] are none, integers [B, 6] are words."""
    return len(x.shape) > 2 or x.shape[1] is None or "int" in x.dtype


def ends(model):
    """The symbolic inputs and outputs of a Sequential or functional model."""
    if isinstance(model, keras.Function):
        return model.input, model.output
    return tuple(x[0] if len(x) == 1 else x for x in (model.inputs, model.outputs))


def with_states(model, states, seen, copies):
    """Copy the model with its layers in `Watched` and `StatefulStep`, for sequences of any length."""

    def copy(operation):
        if operation not in copies:
            if isinstance(operation, keras.Function | keras.Sequential):
                copies[operation] = with_states(operation, states, seen, copies)
            elif isinstance(operation, RNN):
                if operation.go_backwards:
                    raise refusal(operation.name, "go_backwards was True")
                copies[operation] = StatefulStep(operation, states)
            elif isinstance(operation, keras.layers.TimeDistributed):
                copies[operation] = Watched(EachStep(operation), seen)
            else:
                copies[operation] = Watched(operation, seen)
        return copies[operation]

    def anew(x):
        shape = (None, None, *x.shape[2:]) if has_time(x) else (None, *x.shape[1:])
        return keras.Input(batch_shape=shape, dtype=x.dtype, name=x.name)

    inputs, outputs = ends(model)
    return keras.models.clone_model(
        keras.Model(inputs, outputs), tf.nest.map_structure(anew, inputs), clone_function=copy
    )


def example(x, num_words):
    """Make a random input like `x`: words from 0 to `num_words` - 1 if it is [B, T], else normal numbers."""
    rng = np.random.default_rng(0)
    shape = [BATCH, STEPS, *x.shape[2:]] if has_time(x) else [BATCH, *x.shape[1:]]
    if None in shape:
        raise ValueError(f"model_or_core: input {x.name!r} of shape {x.shape}, must be known but for time")
    words = "int" in x.dtype or (has_time(x) and len(shape) == 2)
    return tf.cast(rng.integers(num_words, size=shape) if words else rng.standard_normal(shape), x.dtype)


def compare(operation, whole, steps):
    """Raise the operation's error if its outputs for a sequence differ from those of single steps."""
    for at_once, *one_by_one in zip(*map(tf.nest.flatten, (whole, *steps)), strict=True):
        in_time = at_once.shape != one_by_one[-1].shape
        if in_time and (at_once.shape[1:2] != [STEPS] or one_by_one[-1].shape[1:2] != [1]):
            raise refusal(operation.name, f"its output of {STEPS} steps has the shape {at_once.shape}")
        if in_time and getattr(operation, "kernel_size", (1,))[0] > 1:
            raise refusal(operation.name, f"its kernel_size was {operation.kernel_size}")
        together = tf.concat(one_by_one, 1) if in_time else one_by_one[-1]
        a, b = (np.asarray(tf.cast(x, tf.float64)) for x in (at_once, together))
        tolerance = 0.1 if at_once.dtype.name in LOW_PRECISION else 1e-3
        if not np.allclose(a, b, rtol=0, atol=tolerance * np.max(np.abs(a), initial=1e-6)):
            raise refusal(operation.name, "its outputs of a whole sequence differ from those of single steps")


def stepwise_functions(model):
    """Make `{signature: (function, arguments)}` as of a core, for `tfmem.export.saved_model`."""
    states, seen, copies = States(), [], {}
    copied = with_states(model, states, seen, copies)
    symbolic, _ = ends(model)
    timed = tf.nest.map_structure(has_time, symbolic)

    def run(inputs, given=None):
        states.start(given)
        seen.clear()
        return copied(inputs), states.left

    num_words = min((o.input_dim for o in copies if isinstance(o, keras.layers.Embedding)), default=2)
    inputs = tf.nest.map_structure(lambda x: example(x, num_words), symbolic)
    whole_outputs, _ = run(inputs)
    whole, steps, left = list(seen), [], None
    if not states.layers:
        raise ValueError(f"model_or_core: {model!r}, must hold a tfmem.RNN; without memory it has its own `export`")
    for t in range(STEPS):
        now = tf.nest.map_structure(lambda x, in_time, t=t: x[:, t : t + 1] if in_time else x, inputs, timed)
        step_outputs, left = run(now, left)
        steps.append([outputs for _, outputs in seen])
    for (operation, outputs), *step in zip(whole, *steps, strict=True):
        compare(operation, outputs, step)
    timed_outputs = tf.nest.map_structure(lambda o, part: o.shape != part.shape, whole_outputs, step_outputs)

    names = [layer.name for layer in states.layers]
    names = [n if names.count(n) == 1 else f"{n}_{names[:i].count(n)}" for i, n in enumerate(names)]
    layers = dict(zip(names, states.layers, strict=True))
    left = dict(zip(names, left, strict=True))

    def sequence_from_state(inputs, state):
        outputs, new = run(inputs, [state[name] for name in names])
        return {"outputs": outputs, "state": dict(zip(names, new, strict=True))}

    def step(inputs, state):
        inputs = tf.nest.map_structure(lambda x, in_time: x[:, tf.newaxis] if in_time else x, inputs, timed)
        result = sequence_from_state(inputs, state)
        outputs = tf.nest.map_structure(lambda o, in_time: o[:, 0] if in_time else o, result["outputs"], timed_outputs)
        return {**result, "outputs": outputs}

    def get_initial_state(batch_size):
        return {name: layer.initial(left[name], batch_size) for name, layer in layers.items()}

    def specs(*leading):
        def spec(x, in_time):
            return tf.TensorSpec([*leading, *x.shape[2:]] if in_time else [None, *x.shape[1:]], x.dtype)

        return {"inputs": tf.nest.map_structure(spec, symbolic, timed)}

    state = {name: layer.specs(left[name]) for name, layer in layers.items()}
    return memory_signatures(step, sequence_from_state, get_initial_state, state, specs(None), specs(None, None))
