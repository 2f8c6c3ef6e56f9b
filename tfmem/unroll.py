"""One unroll for every core, Sonnet's or Keras's, in eager mode, in a graph and under XLA."""

import tensorflow as tf


def project_inputs(core, inputs):
    """What `core` can compute of `inputs` [T, B, ...] without the state (the inputs themselves by default)."""
    return core.project_inputs(inputs) if hasattr(core, "project_inputs") else inputs


def step(core, projected, state):
    """One step of `core` from projected inputs [B, ...]: `(output, next_state)`."""
    return core.step(projected, state) if hasattr(core, "step") else core(projected, state)


def unroll(core, inputs, initial_state, sequence_length=None):
    """Runs a core over a sequence, with the input's share of the work done for all steps at once.

    Args:
      core: a Sonnet core, a Keras RNN cell, or any callable `(inputs, state) -> (output, next_state)`. Where it
        has `project_inputs` and `step`, the first runs once on the whole sequence.
      inputs: nest of time-major tensors [T, B, ...].
      initial_state: nest of tensors [B, ...], of the structure that the core returns.
      sequence_length: number of valid steps, an int32 scalar or [B]; later steps give zero outputs and leave the
        state as it was. Default: all steps are valid.

    Returns:
      `(outputs, final_state)`: outputs is a nest of [T, B, ...].

    Under XLA, and for gradients under XLA, T must be static.
    """
    projected = project_inputs(core, inputs)
    flat_projected = tf.nest.flatten(projected)
    static_steps = flat_projected[0].shape[0]
    num_steps = tf.shape(flat_projected[0])[0] if static_steps is None else static_steps
    flat_state = [tf.convert_to_tensor(s) for s in tf.nest.flatten(initial_state)]

    def at(t, flat_state):
        projected_t = tf.nest.pack_sequence_as(projected, [tf.gather(p, t) for p in flat_projected])
        state = tf.nest.pack_sequence_as(initial_state, flat_state)
        output, next_state = step(core, projected_t, state)
        tf.nest.assert_same_structure(initial_state, next_state, check_types=False)
        if sequence_length is not None:
            output = tf.nest.map_structure(lambda o: _where_valid(t, sequence_length, o, tf.zeros_like(o)), output)
        flat_next = tf.nest.flatten(next_state)
        if sequence_length is not None:
            flat_next = [_where_valid(t, sequence_length, n, s) for n, s in zip(flat_next, flat_state, strict=True)]
        return output, flat_next

    if tf.executing_eagerly():
        outputs = []
        for t in range(int(num_steps)):
            output, flat_state = at(t, flat_state)
            outputs.append(output)
        stacked = tf.nest.map_structure(lambda *steps: tf.stack(steps), *outputs)
        return stacked, tf.nest.pack_sequence_as(initial_state, flat_state)

    # The structure of the output is found by tracing one step outside the loop; XLA and grappler drop it as dead code.
    template, _ = at(0, flat_state)
    arrays = [tf.TensorArray(o.dtype, size=num_steps, element_shape=o.shape) for o in tf.nest.flatten(template)]

    def body(t, arrays, flat_state):
        output, flat_state = at(t, flat_state)
        written = [a.write(t, o) for a, o in zip(arrays, tf.nest.flatten(output), strict=True)]
        return t + 1, written, flat_state

    _, arrays, flat_state = tf.while_loop(
        lambda t, *_: t < num_steps, body, (0, arrays, flat_state), maximum_iterations=static_steps
    )
    outputs = [a.stack() for a in arrays]
    for output, o in zip(outputs, tf.nest.flatten(template), strict=True):
        output.set_shape([static_steps, *o.shape])
    return tf.nest.pack_sequence_as(template, outputs), tf.nest.pack_sequence_as(initial_state, flat_state)


def _where_valid(t, sequence_length, valid, otherwise):
    condition = t < tf.convert_to_tensor(sequence_length, tf.int32)
    condition = tf.reshape(condition, [-1] + [1] * (valid.shape.rank - 1))
    return tf.where(condition, valid, otherwise)
