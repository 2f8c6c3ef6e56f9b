"""The four signatures of a model or core with memory, from two functions; see `tfmem.export.saved_model`."""

import tensorflow as tf


def state_specs(core, own):
    """Specs of a core's or cell's state with unknown batch; `own` is one of its states."""
    shapes = [s.shape[1:] for s in tf.nest.flatten(own)]
    if hasattr(core, "state_size"):  # None marks a size that grows; Keras's own cells have integers
        shapes = tf.nest.flatten(core.state_size)
    specs = [
        tf.TensorSpec([None, *([shape] if isinstance(shape, int) else shape)], s.dtype)
        for s, shape in zip(tf.nest.flatten(own), shapes, strict=True)
    ]
    return tf.nest.pack_sequence_as(own, specs)


def model_signatures(model, step, sequence_from_state, step_inputs, sequence_inputs):
    """`memory_signatures` of a model with `get_initial_state`, and with `cell` if it consists of one core."""
    state = state_specs(getattr(model, "cell", None), model.get_initial_state(1))
    return memory_signatures(step, sequence_from_state, model.get_initial_state, state, step_inputs, sequence_inputs)


def mapped_signatures(model, specs):
    """`model_signatures` of a model from inputs by name to results by name, of every step.

    Args:
      model: its `run(inputs, state)` is time-major and returns (results, state); its call is batch-major, with
        `initial_state` and `return_state`.
      specs: function of the sizes of leading axes that returns `{name: spec}` of all inputs.
    """

    def step(state, **inputs):
        results, state = model.run({name: x[tf.newaxis] for name, x in inputs.items()}, state)
        return {**{name: x[0] for name, x in results.items()}, "state": state}

    def sequence_from_state(state, **inputs):
        results, state = model(inputs, initial_state=state, return_state=True)
        return {**results, "state": state}

    return model_signatures(model, step, sequence_from_state, specs(None), specs(None, None))


def memory_signatures(step, sequence_from_state, get_initial_state, state, step_inputs, sequence_inputs):
    """Make the signatures `{name: (function, arguments)}` of a model or core with memory.

    A sequence of no steps gives empty outputs and an unchanged state. An output without a time axis is that of the last
    step, so the sequence must have one.

    Args:
      step, sequence_from_state: functions `(state, **inputs) -> {name: nest}` with a new "state". Axis 1 of a
        sequence's input or output is time where its size is unknown.
      get_initial_state: function of the batch size.
      state: nest of specs of the state.
      step_inputs, sequence_inputs: `{name: nest of specs}` of one step and of a sequence.
    """
    timed = tf.nest.map_structure(lambda spec: spec.shape[1:2].as_list() == [None], sequence_inputs)

    def of_any_length(state, **inputs):
        first = next(x for x, t in zip(tf.nest.flatten(inputs), tf.nest.flatten(timed), strict=True) if t)
        steps = tf.shape(first)[1]
        missing = tf.cast(tf.equal(steps, 0), tf.int32)  # run one step if there is none, then remove it

        def padded(x, in_time):
            return tf.pad(x, [[0, 0], [0, missing], *[[0, 0]] * (x.shape.rank - 2)]) if in_time else x

        def cut(x):
            if x.shape[1:2].as_list() == [None]:
                return x[:, :steps]
            some = tf.debugging.assert_positive(steps, "inputs: 0 steps, must be at least 1 for the last step's output")
            with tf.control_dependencies([some]):
                return tf.identity(x)

        results = sequence_from_state(state=state, **tf.nest.map_structure(padded, inputs, timed))
        new, old = tf.nest.flatten(results.pop("state")), tf.nest.flatten(state)
        new = tf.cond(steps > 0, lambda: new, lambda: old)
        return {**tf.nest.map_structure(cut, results), "state": tf.nest.pack_sequence_as(state, new)}

    def sequence(**inputs):
        return of_any_length(get_initial_state(tf.shape(tf.nest.flatten(inputs)[0])[0]), **inputs)

    def initial_state(batch_size):
        return {"state": get_initial_state(batch_size)}

    return {
        "step": (step, {**step_inputs, "state": state}),
        "sequence": (sequence, sequence_inputs),
        "sequence_from_state": (of_any_length, {**sequence_inputs, "state": state}),
        "initial_state": (initial_state, {"batch_size": tf.TensorSpec([], tf.int32)}),
    }
