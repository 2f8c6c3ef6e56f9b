"""One unroll for every core, Sonnet's or Keras's, in eager mode, in a graph and under XLA."""

import contextlib

import tensorflow as tf


def project_inputs(core, inputs):
    """What `core` can compute of `inputs` [T, B, ...] without the state (the inputs themselves by default)."""
    return core.project_inputs(inputs) if hasattr(core, "project_inputs") else inputs


def step(core, projected, state):
    """One step of `core` from projected inputs [B, ...]: `(output, next_state)`."""
    return core.step(projected, state) if hasattr(core, "step") else core(projected, state)


def reserve(core, state, num_steps):
    """The state with room for `num_steps` more steps, where the core's state grows; else the state itself."""
    return core.reserve(state, num_steps) if hasattr(core, "reserve") else state


def unroll(core, inputs, initial_state, sequence_length=None, mask=None):
    """Runs a core over a sequence, with the input's share of the work done for all steps at once.

    Args:
      core: a Sonnet core, a Keras RNN cell, or any callable `(inputs, state) -> (output, next_state)`. Where it
        has `project_inputs` and `step`, the first runs once on the whole sequence; where it has `reserve`, the state
        gets room for the sequence; where it has `scan`, that is the loop (without a mask).
      inputs: nest of time-major tensors [T, B, ...].
      initial_state: nest of tensors [B, ...], of the structure that the core returns.
      sequence_length: number of valid steps, an integer scalar or [B]; later steps give zero outputs and leave the
        state as it was. Default: all steps are valid.
      mask: the same for valid steps anywhere, bool [T, B].

    Returns:
      `(outputs, final_state)`: outputs is a nest of [T, B, ...].

    Raises:
      ValueError: `inputs` has no time step, or the core returns a state of another structure.

    Under XLA, and for gradients under XLA, T must be static.
    """
    projected = project_inputs(core, inputs)
    flat_projected = [tf.convert_to_tensor(p) for p in tf.nest.flatten(projected)]
    static_steps = flat_projected[0].shape[0]
    if static_steps == 0:
        raise ValueError(f"inputs must have at least one time step, got shape {flat_projected[0].shape}")
    num_steps = tf.shape(flat_projected[0])[0] if static_steps is None else static_steps
    if sequence_length is not None:
        prefix = tf.range(num_steps)[:, tf.newaxis] < tf.cast(sequence_length, tf.int32)
        mask = prefix if mask is None else tf.logical_and(mask, prefix)
    if mask is None and hasattr(core, "scan"):
        return core.scan(projected, initial_state)
    initial_state = reserve(core, initial_state, num_steps)
    flat_state = [tf.convert_to_tensor(s) for s in tf.nest.flatten(initial_state)]

    def run(t, flat_projected_t, flat_state):
        projected_t = tf.nest.pack_sequence_as(projected, flat_projected_t)
        state = tf.nest.pack_sequence_as(initial_state, flat_state)
        output, next_state = step(core, projected_t, state)
        tf.nest.assert_same_structure(initial_state, next_state, check_types=False)
        flat_next = [tf.convert_to_tensor(n) for n in tf.nest.flatten(next_state)]
        for after, before in zip(flat_next, flat_state, strict=True):
            if not tf.executing_eagerly():
                after.set_shape(before.shape)
        if mask is not None:
            valid = tf.gather(mask, t)
            output = tf.nest.map_structure(lambda o: _where(valid, o, tf.zeros_like(o)), output)
            flat_next = [_where(valid, n, s) for n, s in zip(flat_next, flat_state, strict=True)]
        return output, flat_next

    if tf.executing_eagerly():
        outputs = []
        for t in range(int(num_steps)):
            output, flat_state = run(t, [p[t] for p in flat_projected], flat_state)
            outputs.append(output)
        stacked = tf.nest.map_structure(lambda *steps: tf.stack(steps), *outputs)
        return stacked, tf.nest.pack_sequence_as(initial_state, flat_state)

    # The structure of the output is found by tracing one step outside the loop; XLA and grappler drop it as dead code.
    with tf.GradientTape() as reads:
        template, _ = run(0, [p[0] for p in flat_projected], flat_state)
    flat_template = tf.nest.flatten(template)
    weights = [(variable, variable.value()) for variable in reads.watched_variables()]

    # Inputs are popped from and outputs pushed to lists, whose gradients push and pop: time grows with T. The gradient
    # of a gather (and, under XLA, of TensorArray.write) touches all T steps in every step: time would grow with T^2.
    sources = [
        tf.raw_ops.TensorListFromTensor(tensor=tf.reverse(p, [0]), element_shape=_list_shape(p.shape[1:]))
        for p in flat_projected
    ]
    sinks = [
        tf.raw_ops.EmptyTensorList(
            element_shape=_list_shape(o.shape), max_num_elements=num_steps, element_dtype=o.dtype
        )
        for o in flat_template
    ]

    def body(t, sources, sinks, flat_state):
        popped = [
            tf.raw_ops.TensorListPopBack(
                input_handle=source, element_shape=_list_shape(p.shape[1:]), element_dtype=p.dtype
            )
            for source, p in zip(sources, flat_projected, strict=True)
        ]
        steps = [_with_shape(x, p.shape[1:]) for (_, x), p in zip(popped, flat_projected, strict=True)]
        with _read_already(weights):
            output, next_state = run(t, steps, flat_state)
        sinks = [
            tf.raw_ops.TensorListPushBack(input_handle=sink, tensor=o)
            for sink, o in zip(sinks, tf.nest.flatten(output), strict=True)
        ]
        return t + 1, [source for source, _ in popped], sinks, _gradients_apart(next_state, flat_state)

    _, _, sinks, flat_state = tf.while_loop(
        lambda t, *_: t < num_steps, body, (0, sources, sinks, flat_state), maximum_iterations=static_steps
    )
    outputs = [
        _with_shape(
            tf.raw_ops.TensorListStack(
                input_handle=sink,
                element_shape=_list_shape(o.shape),
                element_dtype=o.dtype,
                num_elements=-1 if static_steps is None else static_steps,
            ),
            [static_steps, *o.shape],
        )
        for sink, o in zip(sinks, flat_template, strict=True)
    ]
    return tf.nest.pack_sequence_as(template, outputs), tf.nest.pack_sequence_as(initial_state, flat_state)


@contextlib.contextmanager
def _read_already(weights):
    """While the body of a loop is traced, reading these variables gives these tensors from before the loop.

    What is read in a step is kept for the gradient in every step: under XLA, T copies of all weights.
    """
    around = [variable._cached_value for variable, _ in weights]  # of a loop around this one
    for variable, value in weights:
        variable._cached_value = value  # what `value()` gives where it is set
    try:
        yield
    finally:
        for (variable, _), value in zip(weights, around, strict=True):
            variable._cached_value = value


def _gradients_apart(after, before):
    """The tensors of a loop's state `after` a step, with an operation between the gradient's loop and their gradients.

    Without it TensorFlow's optimiser of memory breaks the gradient where a state is used often in a step and a device
    is short of memory (a CPU is thought to have 256 MB): it makes the temporary variable of a sum of three terms once
    too often if the first is the loop's own variable ("AlreadyExistsError ... AddN ... tmp_var"). The same befalls a
    variable that a step reads twice. What a step leaves as it was stays so, for TensorFlow does not store it again.
    """

    @tf.custom_gradient
    def apart(x):
        # An identity that the optimiser does not remove.
        return tf.identity(x), lambda g: tf.raw_ops.PlaceholderWithDefault(input=g, shape=g.shape)

    changed = [x is not old and x.dtype.is_floating for x, old in zip(after, before, strict=True)]
    return [apart(x) if new else x for x, new in zip(after, changed, strict=True)]


def _where(valid, new, old):
    return tf.where(tf.reshape(valid, [-1] + [1] * (new.shape.rank - 1)), new, old)


def _list_shape(shape):
    return tf.constant([-1 if d is None else d for d in shape], tf.int32)


def _with_shape(x, shape):
    x.set_shape(shape)
    return x
