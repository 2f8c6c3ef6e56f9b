"""Unroll of any core, Sonnet's or Keras's, in eager mode, in a graph and under XLA."""

import functools
import types

import tensorflow as tf

from tfmem import weight_gradients
from tfmem.backend import keras


def project_inputs(core, inputs):
    """State-independent part of `core`'s computation for `inputs` [T, B, ...]; the inputs themselves by default."""
    return core.project_inputs(inputs) if hasattr(core, "project_inputs") else inputs


def step(core, projected, state):
    """Run one step of `core` on projected inputs [B, ...]; returns `(output, next_state)`."""
    return core.step(projected, state) if hasattr(core, "step") else core(projected, state)


def reserve(core, state, num_steps):
    """Return the state with room for `num_steps` more steps if the core's state grows, else the state itself."""
    return core.reserve(state, num_steps) if hasattr(core, "reserve") else state


def input_axes(core):
    """Number of axes of one input of a core without its batch, from the core's `input_layout`; None if unknown."""
    layout = getattr(core, "input_layout", "...")
    return None if layout == "..." else layout.count(",") + 1


def swap_batch_and_time(nest):
    """Swap the first two axes of every tensor of a nest: [B, T, ...] to [T, B, ...] and back."""
    return tf.nest.map_structure(lambda x: tf.transpose(x, [1, 0, *range(2, x.shape.rank)]), nest)


def check_sequences(core, shape, argument="inputs"):
    """Raise a ValueError unless the shape of batch-major sequences is [B, T, ...], as the core's `input_layout` says.

    Args:
      core: a core or cell; without a layout it needs one axis behind the time, or more.
      shape: sizes, None if unknown; at least one time step.
      argument: the sequences' name in the error.
    """
    axes, layout = input_axes(core), getattr(core, "input_layout", "...")
    if len(shape) < 3 if axes is None else len(shape) != axes + 2:
        least = " with at least 3 axes" if axes is None else ""
        raise ValueError(f"{argument}: shape {tuple(shape)}, must be [B, T, {layout}]{least}")
    if shape[1] == 0:
        raise ValueError(f"{argument}: shape {tuple(shape)}, must be [B, T, {layout}] with at least one time step")


@tf.autograph.experimental.do_not_convert
def checked_inputs(core, inputs, state, time_major=False):
    """Check the axes of inputs [B, ...], or [T, B, ...], and cast integers and booleans to the state's dtype.

    Applies to cores with `input_layout`, the names of an input's axes ("..." for any); float64 is cast as well. Other
    cores get their inputs unchanged.

    Raises:
      ValueError: an input has another number of axes than `input_layout`.
    """
    if not hasattr(core, "input_layout"):
        return inputs
    layout = f"[{'T, ' if time_major else ''}B, {core.input_layout}]"
    leading, axes = 1 + int(time_major), input_axes(core)
    dtype = next((s.dtype for s in map(tf.convert_to_tensor, tf.nest.flatten(state)) if s.dtype.is_floating), None)

    def check(x):
        x = tf.convert_to_tensor(x)
        few = x.shape.rank is not None and x.shape.rank < leading + (axes or 1)
        if few or (axes is not None and x.shape.rank is not None and x.shape.rank > leading + axes):
            raise ValueError(f"inputs: shape {x.shape}, must be {layout}")
        convert = dtype is not None and (x.dtype.is_integer or x.dtype in (tf.bool, tf.float64))
        return tf.cast(x, dtype) if convert else x

    return tf.nest.map_structure(check, inputs)


@tf.autograph.experimental.do_not_convert
def same_batch(inputs, state, argument="state", time_major=False):
    """Return the state after a check that its batch is that of the inputs; TensorFlow would broadcast 1, or crash.

    Sizes that are known at this call are compared at once, others when the graph runs. XLA drops assertions; there a
    reshape fails.

    Args:
      inputs: nest of tensors [B, ...], or [T, B, ...] where `time_major`.
      state: nest of tensors [B, ...]; scalars have no batch.
      argument: the state's name in the error.

    Raises:
      ValueError: the batches differ. (For unknown sizes the graph raises InvalidArgumentError when it runs.)
    """
    axis = int(time_major)
    flat_inputs = [x for x in map(tf.convert_to_tensor, tf.nest.flatten(inputs)) if x.shape.rank not in range(axis + 1)]
    flat_state = [tf.convert_to_tensor(x) for x in tf.nest.flatten(state)]
    input_sizes = [x.shape[axis] for x in flat_inputs]
    state_sizes = [x.shape[0] for x in flat_state if x.shape.rank != 0]
    if not input_sizes or not state_sizes:
        return state
    known = sorted({size for size in input_sizes if size is not None})
    if len(known) > 1:
        raise ValueError(f"inputs: tensors with batches of {known}, must be of one batch")
    wrong = sorted({size for size in state_sizes if size is not None and known and size != known[0]})
    if wrong:
        layout = "[T, B, ...]" if time_major else "[B, ...]"
        raise ValueError(f"{argument}: batch of {wrong[0]}, must be {known[0]}, that of the inputs {layout}")
    if None not in (*input_sizes, *state_sizes):
        return state
    batch = known[0] if known else tf.shape(flat_inputs[0])[axis]
    sizes = [tf.shape(x)[axis] for x in flat_inputs] + [tf.shape(x)[0] for x in flat_state if x.shape.rank != 0]
    message = f"{argument}: its batch must be that of the inputs"
    # Each tensor depends on the assertion itself: grappler may drop a reshape with the dependencies of its shape.
    with tf.control_dependencies([tf.debugging.assert_equal(tf.stack(sizes), batch, message)]):
        flat_state = [tf.identity(x) for x in flat_state]
    checked = [
        x if x.shape.rank == 0 else _with_shape(tf.reshape(x, tf.concat([[batch], tf.shape(x)[1:]], 0)), x.shape)
        for x in flat_state
    ]
    return tf.nest.pack_sequence_as(state, checked)


# Methods of a core that a subclass may override and keep the `scan` of its base.
_OUTSIDE_STEPS = {"build", "get_config", "get_initial_state", "initial_state", "get_build_config", "build_from_config"}


def scan_of(core):
    """Return a core's `scan`; None without one, or if a subclass overrides a method of the class that defines it."""
    classes = type(core).__mro__
    owner = next((c for c in classes if "scan" in vars(c)), None)
    if owner is not None:
        for subclass in classes[: classes.index(owner)]:
            methods = {name for name, value in vars(subclass).items() if isinstance(value, types.FunctionType)}
            if {name for name in methods if hasattr(owner, name) and name[:2] != "__"} - _OUTSIDE_STEPS:
                return None
    return getattr(core, "scan", None)


def unroll(core, inputs, initial_state, sequence_length=None, mask=None):
    """Run a core over a sequence; the part of the work that needs inputs alone is done for all steps at once.

    Args:
      core: a Sonnet core, a Keras RNN cell, or any callable `(inputs, state) -> (output, next_state)`. Optional
        methods: `project_inputs` runs once on the whole sequence before `step`; `reserve` makes room in the state for
        the sequence; `scan` replaces the loop (without a mask, unless `scans_masks` is true).
      inputs: nest of time-major tensors [T, B, ...].
      initial_state: nest of tensors [B, ...], with the structure that the core returns.
      sequence_length: number of valid steps, an integer scalar or [B]; later steps give zero outputs and leave the
        state unchanged. Default: all steps are valid.
      mask: valid steps in any order, bool [T, B], with the same effect.

    Returns:
      `(outputs, final_state)`: outputs is a nest of [T, B, ...].

    Raises:
      ValueError: `inputs` has no time step, `initial_state` has another batch than `inputs`, or the core returns a
        state of another structure. (For a batch that is unknown at this call: InvalidArgumentError when the graph
        runs.)

    Under XLA, and for gradients under XLA, T must be static.
    """
    inputs = checked_inputs(core, inputs, initial_state, time_major=True)
    initial_state = same_batch(inputs, initial_state, "initial_state", time_major=True)
    projected = project_inputs(core, inputs)
    flat_projected = [tf.convert_to_tensor(p) for p in tf.nest.flatten(projected)]
    static_steps = flat_projected[0].shape[0]
    if static_steps == 0:
        shape = tuple(tf.nest.flatten(inputs)[0].shape)
        raise ValueError(f"inputs: shape {shape}, must be [T, B, ...] with at least one time step")
    num_steps = tf.shape(flat_projected[0])[0] if static_steps is None else static_steps
    batch = flat_projected[0].shape[1] if (flat_projected[0].shape.rank or 0) > 1 else None
    mask = _valid_steps(num_steps, tf.TensorShape([static_steps, batch]), sequence_length, mask)
    scan = scan_of(core)
    if scan is not None:
        if mask is None:
            return scan(projected, initial_state)
        if getattr(core, "scans_masks", False):
            return scan(projected, initial_state, mask)
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

    # Tracing one step outside the loop gives the output's structure; XLA and grappler drop it as dead code.
    with tf.GradientTape() as reads, weight_gradients.recording() as trial:
        template, _ = run(0, [p[0] for p in flat_projected], flat_state)
    flat_template = tf.nest.flatten(template)
    core = with_reads(core, reads.watched_variables())

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

    maps = trial.maps
    collectors = [weight_gradients.lists(found, num_steps, static_steps) for found in maps]

    def body(t, sources, collectors, sinks, flat_state):
        popped = [
            tf.raw_ops.TensorListPopBack(
                input_handle=source, element_shape=_list_shape(p.shape[1:]), element_dtype=p.dtype
            )
            for source, p in zip(sources, flat_projected, strict=True)
        ]
        steps = [_with_shape(x, p.shape[1:]) for (_, x), p in zip(popped, flat_projected, strict=True)]
        collected = [weight_gradients.pop(pair, found) for pair, found in zip(collectors, maps, strict=True)]
        with weight_gradients.in_loop(maps, [elements for _, elements in collected]):
            output, next_state = run(t, steps, flat_state)
        sinks = [
            tf.raw_ops.TensorListPushBack(input_handle=sink, tensor=o)
            for sink, o in zip(sinks, tf.nest.flatten(output), strict=True)
        ]
        left = [source for source, _ in popped], [pair for pair, _ in collected]
        return t + 1, *left, sinks, _gradients_apart(next_state, flat_state)

    loop_variables = (0, sources, collectors, sinks, flat_state)
    *_, sinks, flat_state = tf.while_loop(
        lambda t, *_: t < num_steps, body, loop_variables, maximum_iterations=static_steps
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


@tf.autograph.experimental.do_not_convert
def with_reads(core, variables):
    """Copy a core with these variables replaced by tensors of their current values.

    A loop that reads a variable keeps the value for the gradient of every step: under XLA, T copies of all weights. The
    copy shares all parts without these variables. It searches modules, layers, containers and closures of functions. A
    variable that it does not find, such as a global one, is read in every step.
    """
    reads = {id(variable): _Read(variable, variable.value()) for variable in variables}
    return _replaced(core, reads, {})


class _Read:
    """Stand-in for a variable whose value is a tensor read before; all other attributes are the variable's."""

    def __init__(self, variable, tensor):
        self.stands_for, self._tensor = variable, tensor

    def __getattr__(self, name):
        return getattr(self.stands_for, name)

    def __tf_tensor__(self, dtype=None, name=None):
        return tf.convert_to_tensor(self._read(), dtype, name=name)

    def _read(self):
        """The value, by another operation outside the loop at each read; see `_gradients_apart`."""
        if tf.executing_eagerly() or tf.compat.v1.get_default_graph() is self._tensor.graph:
            return self._tensor
        with self._tensor.graph.as_default():
            return tf.identity(self._tensor)

    value = read_value = _read


class _KerasRead(_Read):
    """Stand-in for a Keras variable, which a layer's dtype policy may cast at each read."""

    def _read(self):
        with keras.StatelessScope(state_mapping=[(self.stands_for, super()._read())]):
            return self.stands_for.value

    value = property(_read)


for _operator in tf.Tensor.OVERLOADABLE_OPERATORS:
    setattr(_Read, _operator, lambda self, *args, _name=_operator: getattr(self._read(), _name)(*args))


def _replaced(x, reads, done):
    """Return `x` with variables replaced by `reads`, keyed by their ids; `x` itself if it holds none of them."""
    if id(x) in reads:
        return reads[id(x)]
    if id(x) not in done:
        done[id(x)] = x, x  # for cycles: a variable read inside the loop gives the same numbers
        done[id(x)] = x, _copy(x, lambda part: _replaced(part, reads, done), reads)
    return done[id(x)][1]


def _copy(x, replace, reads):
    if isinstance(x, keras.Variable):
        with tf.GradientTape() as tape:  # a dtype policy may cast the value; the tape sees the variable below
            tf.convert_to_tensor(x)
        below = [reads[id(v)] for v in tape.watched_variables() if id(v) in reads]
        return _KerasRead(x, below[0].value()) if below else x
    if isinstance(x, types.MethodType):
        owner = replace(x.__self__)
        return x if owner is x.__self__ else types.MethodType(x.__func__, owner)
    if isinstance(x, types.FunctionType):
        cells = x.__closure__ or ()
        contents = {i: cell.cell_contents for i, cell in enumerate(cells) if cell != types.CellType()}
        parts = (contents, x.__defaults__, x.__kwdefaults__)
        new = replace(parts)
        if new is parts:
            return x
        contents, defaults, keywords = new
        cells = tuple(types.CellType(contents[i]) if i in contents else cell for i, cell in enumerate(cells))
        copy = types.FunctionType(x.__code__, x.__globals__, x.__name__, defaults, cells)
        copy.__kwdefaults__ = keywords
        copy.__dict__.update(x.__dict__)
        return copy
    if isinstance(x, functools.partial):
        parts = (x.func, x.args, x.keywords)
        new = replace(parts)
        return x if new is parts else functools.partial(new[0], *new[1], **new[2])
    if isinstance(x, dict):
        new = {key: replace(value) for key, value in x.items()}
        return x if all(new[key] is x[key] for key in new) else new
    if isinstance(x, list | tuple):
        new = [replace(value) for value in x]
        if all(a is b for a, b in zip(new, x, strict=True)):
            return x
        return new if isinstance(x, list) else x._make(new) if hasattr(x, "_make") else tuple(new)
    if isinstance(x, tf.Module | keras.layers.Layer):
        attributes = dict(vars(x))
        new = replace(attributes)
        if new is attributes:
            return x
        copy = object.__new__(type(x))
        vars(copy).update(new)
        return copy
    return x


def _gradients_apart(after, before):
    """Insert an operation between the gradient's loop and the gradients of a loop's state `after` a step.

    Without it TensorFlow's memory optimiser breaks the gradient if a step uses a state often and a device is short of
    memory (it assumes 256 MB for a CPU). It creates the temporary variable of a sum of three terms once too often if
    the first is the loop's own variable ("AlreadyExistsError ... AddN ... tmp_var"). Tensors that a step leaves
    unchanged get no operation, as TensorFlow does not store them again. The loop's gradient sums a weight in the same
    way; each read of it is therefore another tensor (`_Read`).
    """

    @tf.custom_gradient
    def apart(x):
        # an identity that the optimiser does not remove
        return tf.identity(x), lambda g: tf.raw_ops.PlaceholderWithDefault(input=g, shape=g.shape)

    changed = [x is not old and x.dtype.is_floating for x, old in zip(after, before, strict=True)]
    return [apart(x) if new else x for x, new in zip(after, changed, strict=True)]


def _valid_steps(num_steps, shape, sequence_length, mask):
    """Valid steps by `sequence_length` and `mask` together, bool [T, B] or [T, 1]; None: all."""
    if mask is not None:
        mask = tf.convert_to_tensor(mask)
        if mask.dtype != tf.bool or not mask.shape.is_compatible_with(shape):
            raise ValueError(f"mask: {mask.dtype.name} of shape {mask.shape}, must be bool [T, B], here {shape}")
    if sequence_length is not None:
        length = tf.convert_to_tensor(sequence_length)
        if not length.dtype.is_integer or not (length.shape.rank == 0 or length.shape.is_compatible_with(shape[1:])):
            raise ValueError(
                f"sequence_length: {length.dtype.name} of shape {length.shape}, must be integers, a scalar or [B], "
                f"here {shape[1:]}"
            )
        prefix = tf.range(num_steps)[:, tf.newaxis] < tf.cast(length, tf.int32)
        mask = prefix if mask is None else tf.logical_and(mask, prefix)
    return mask


def _where(valid, new, old):
    return tf.where(tf.reshape(valid, [-1] + [1] * (new.shape.rank - 1)), new, old)


def _list_shape(shape):
    return tf.constant([-1 if d is None else d for d in shape], tf.int32)


def _with_shape(x, shape):
    x.set_shape(shape)
    return x
