"""Any Sonnet core as a Keras RNN cell and any Keras cell as a Sonnet core, with the same variables.

Keras tracks only `keras.Variable`s and Sonnet only `tf.Variable`s. A module inside a layer, or a layer inside a module,
would silently not be trained. The wrappers therefore adopt the variables: `keras.Variable(tf_variable)` holds the same
variable, and the module lists the `keras_variable.value`s of a wrapped cell.
"""

import inspect
import sys

import sonnet as snt
import tensorflow as tf

import tfmem.cores
from tfmem.backend import keras
from tfmem.cores.base import RNNCore
from tfmem.recurrence import project_inputs, reserve, same_batch, scan_of, step


def as_keras_cell(core):
    """Wrap a Sonnet core as a Keras RNN cell with the same variables.

    Args:
      core: an `snt.RNNCore`, built or not. Its variables become the cell's weights when the cell is built.

    Returns:
      A `SonnetCell`; the cell itself if `core` is `as_sonnet_core(cell)`.

    Raises:
      ValueError: `core` is not a Sonnet core.
    """
    if isinstance(core, KerasCore):
        return core.cell
    return SonnetCell(core)


def as_sonnet_core(cell):
    """Wrap a Keras RNN cell as a Sonnet core with the same variables.

    Args:
      cell: a Keras cell; if it is not built, the first call builds it.

    Returns:
      A `KerasCore`; the core itself if `cell` is `as_keras_cell(core)` and nothing in it is frozen.

    Raises:
      ValueError: `cell` is not a Keras RNN cell.
    """
    if isinstance(cell, SonnetCell) and not cell.is_frozen:
        return cell.core
    return KerasCore(cell)


def model_cell(core, argument="core"):
    """Return the core of a model as a Keras RNN cell: a Sonnet core wrapped, a Keras cell itself.

    Raises:
      ValueError: `core` is neither; the message names `argument`.
    """
    if isinstance(core, snt.RNNCore):
        return as_keras_cell(core)
    check_cell(core, argument, "a Sonnet core or a Keras RNN cell")
    return core


def check_cell(cell, argument="cell", kind="a Keras RNN cell"):
    """Raise a ValueError unless `cell` is a Keras RNN cell, a layer with `get_initial_state`."""
    if isinstance(cell, keras.layers.Layer) and hasattr(cell, "get_initial_state") and not _is_rnn(cell):
        return
    if inspect.isclass(cell):
        hint = ": give an instance"
    elif isinstance(cell, snt.RNNCore):
        hint = "; it is a Sonnet core already"
    elif _is_rnn(cell):
        hint = ": give the layer's `cell`, such as LSTMCell"
    elif hasattr(cell, "make"):
        hint = ": give what its `make()` returns"
    else:
        hint = ": a layer with get_initial_state"
    raise ValueError(f"{argument}: {cell!r}, must be {kind}{hint}")


def _is_rnn(layer):
    return isinstance(layer, keras.layers.RNN)


@keras.saving.register_keras_serializable(package="tfmem")
class SonnetCell(keras.layers.Layer):
    """A Sonnet core as a Keras RNN cell; see `as_keras_cell`.

    The configuration holds the core's class and its constructor's arguments. These are read from attributes of the same
    name, or, as in Sonnet's own modules, of that name with a leading underscore.

    Args:
      core: an `snt.RNNCore`. Under `mixed_bfloat16` it gets bfloat16 inputs and states and casts its float32 variables.

    Raises:
      ValueError: `core` is not a Sonnet core. At build time: the core uses trainable variables outside its
        `trainable_variables` (of a Keras layer inside it, or created outside of it); they would not be trained.
    """

    def __init__(self, core, **kwargs):
        super().__init__(**kwargs)
        if not isinstance(core, snt.RNNCore):
            hint = "; it is a Keras layer already" if isinstance(core, keras.layers.Layer) else ""
            raise ValueError(f"core: {core!r}, must be an snt.RNNCore{hint}")
        self.core = core
        self._output_size = None

    def build(self, input_shape):
        def zeros(shape):
            if None in shape[1:]:
                raise ValueError(f"inputs: shape {tuple(shape)}, must be known but for the batch")
            return tf.zeros([1, *shape[1:]], self.compute_dtype)

        with tf.init_scope():
            inputs = keras.tree.map_shape_structure(zeros, input_shape)
            state = self.get_initial_state(1)
            self.core(inputs, state)  # creates the variables
            traced = tf.function(lambda: self.core(inputs, state), autograph=False).get_concrete_function()
        snt.allow_empty_variables(self.core)
        replicas = tf.distribute.get_strategy().experimental_local_results
        adopted = {replica.ref() for v in self.core.variables for replica in replicas(v)}
        strays = [v.name for v in traced.trainable_variables if v.ref() not in adopted]
        if strays:
            raise ValueError(
                f"core: {self.core!r}, must have among its trainable_variables all that it uses, else they are not "
                f"trained; {strays} must belong to the core or a module inside it"
            )
        # Variables of Keras cells inside the core stay the cells', so that freezing a cell freezes them.
        of_cells = {v.value.ref(): v for cell in self._inner_cells() for v in cell.variables}
        variables = [of_cells[v.ref()] if v.ref() in of_cells else keras_variable(v) for v in self.core.variables]
        frozen = [v for v in variables if v.value.trainable and not (v.trainable and self.trainable)]
        for v in frozen:
            v.trainable = True  # Keras orders weights by their current flag; so the saved order is fixed
        self.core_variables = variables
        for v in frozen:
            v.trainable = False
        output, _ = traced.structured_outputs
        self._output_size = tf.nest.map_structure(lambda o: o.shape[1:], output)

    @property
    def input_layout(self):
        return self.core.input_layout

    @property
    def is_frozen(self):
        """True if a variable that the core trains is not trained here."""
        if not self.built:
            return not self.trainable
        return len(self.trainable_variables) < len(self.core.trainable_variables)

    def _inner_cells(self):
        return [module.cell for module in self.core.submodules if isinstance(module, KerasCore)]

    @keras.layers.Layer.trainable.setter
    def trainable(self, value):
        keras.layers.Layer.trainable.fset(self, value)
        for cell in self._inner_cells():
            cell.trainable = value

    @property
    def state_size(self):
        """Nest of tf.TensorShape without the batch; a list of one if the state is a single tensor."""
        if hasattr(self.core, "state_size"):
            sizes = self.core.state_size
        else:
            sizes = tf.nest.map_structure(lambda s: s.shape[1:], self.core.initial_state(1))
        return sizes if tf.nest.is_nested(sizes) else [sizes]

    @property
    def output_size(self):
        """Int for vectors, as Keras's layers expect, else a nest of tf.TensorShape; None while unknown."""
        size = getattr(self.core, "output_size", self._output_size)
        return size[0] if isinstance(size, tf.TensorShape) and size.rank == 1 else size

    def get_initial_state(self, batch_size=None):
        try:
            return self.core.initial_state(batch_size, dtype=tf.as_dtype(self.compute_dtype))
        except TypeError:  # Sonnet's own cores take the dtype in the constructor
            return self.core.initial_state(batch_size)

    def reserve(self, state, num_steps):
        return reserve(self.core, state, num_steps)

    @property
    def scan(self):
        return _scan(self.core)

    @property
    def scans_masks(self):
        return self.core.scans_masks

    def project_inputs(self, inputs):
        return project_inputs(self.core, inputs)

    def step(self, projected, states):
        return step(self.core, projected, states)

    def call(self, inputs, states, training=False):
        # Keras's layers pass a list of the state's elements, and expect a list back in that case.
        own = self.get_initial_state(1)
        output, state = self.core(inputs, same_batch(inputs, tf.nest.pack_sequence_as(own, tf.nest.flatten(states))))
        return output, state if tf.nest.is_nested(own) or not tf.nest.is_nested(states) else [state]

    def get_config(self):
        return {**super().get_config(), "core": keras.saving.serialize_keras_object(SonnetObject(self.core))}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("core")), **config)


def keras_variable(v):
    """Make the Keras variable that holds a `tf.Variable`."""
    return keras.Variable(v, dtype=v.dtype, trainable=v.trainable, name=v.name.split(":")[0].replace("/", "_"))


class KerasCore(RNNCore):
    """A Keras RNN cell as a Sonnet core; see `as_sonnet_core`.

    `trainable_variables` follow the cell: none while it is frozen (`cell.trainable = False`), all when it is not. A
    Sonnet module around the core does not see this, because a tf.Variable cannot be frozen. There, leave out the core's
    `non_trainable_variables`, or train the module as a Keras cell (`as_keras_cell`), which does see it.

    Args:
      cell: a Keras layer with `call(inputs, states)` and `get_initial_state(batch_size)`.

    Raises:
      ValueError: `cell` is not such a layer; or `initial_state` is called for an unbuilt cell whose initial state
        needs weights.
    """

    def __init__(self, cell, name=None):
        super().__init__(name=name)
        check_cell(cell)
        self.cell = cell
        # The initial state may need the constructor's variables: a checkpoint finds them before the cell is built.
        self.constructor_variables = [v.value for v in cell.variables]
        if cell.built:
            self._build(None)

    @property
    def input_layout(self):
        return self.cell.input_layout

    @property
    def state_size(self):
        return self.cell.state_size

    @property
    def output_size(self):
        return self.cell.output_size

    @property
    def trainable_variables(self):
        frozen = {v.value.ref() for v in self.cell.non_trainable_variables}
        return tuple(v for v in super().trainable_variables if v.ref() not in frozen)

    @property
    def non_trainable_variables(self):
        trainable = {v.ref() for v in self.trainable_variables}
        return tuple(v for v in self.variables if v.ref() not in trainable)

    def initial_state(self, batch_size, dtype=tf.float32):
        try:
            state = self.cell.get_initial_state(batch_size=batch_size)
        except AttributeError as error:
            if self.cell.built:
                raise
            raise ValueError(
                f"cell: {self.cell!r}, must be built, as its initial state needs weights: call build(input_shape)"
            ) from error
        return tf.nest.map_structure(lambda s: tf.cast(s, dtype) if s.dtype.is_floating else s, state)

    def reserve(self, state, num_steps):
        return reserve(self.cell, state, num_steps)

    @property
    def scan(self):
        return _scan(self.cell)

    @property
    def scans_masks(self):
        return self.cell.scans_masks

    def __call__(self, inputs, prev_state):
        self._build(inputs)
        return super().__call__(inputs, prev_state)

    def project_inputs(self, inputs):
        self._build(inputs)  # cells read their sizes from the end of a shape; a time axis does no harm
        return project_inputs(self.cell, inputs)

    def step(self, projected, state):
        return step(self.cell, projected, state)

    @snt.once
    def _build(self, inputs):
        if not self.cell.built:
            with tf.init_scope():
                self.cell.build(tf.nest.map_structure(lambda x: tuple(x.shape), inputs))
        snt.allow_empty_variables(self)
        self.cell_variables = [v.value for v in self.cell.variables]


_SONNET = snt.Module | snt.initializers.Initializer | tf.DType


@keras.saving.register_keras_serializable(package="tfmem")
class SonnetObject:
    """Serialisable form of Sonnet objects (class and constructor arguments) and tf.DTypes, which Keras lacks.

    Deserialises to the object itself.
    """

    def __init__(self, constructed):
        self.constructed = constructed

    def get_config(self):
        if isinstance(self.constructed, tf.DType):
            return {"dtype": self.constructed.name}
        cls = type(self.constructed)
        arguments = {}
        has_constructor = cls.__init__ is not object.__init__
        for name in list(inspect.signature(cls.__init__).parameters)[1:] if has_constructor else ():
            for attribute in (name, f"_{name}"):
                if hasattr(self.constructed, attribute):
                    arguments[name] = getattr(self.constructed, attribute)
                    break
            else:
                raise ValueError(
                    f"core: {cls.__name__}, must keep its constructor's argument {name!r} as an attribute to be saved"
                )
        wrapped = tf.nest.map_structure(lambda v: SonnetObject(v) if isinstance(v, _SONNET) else v, arguments)
        return {
            "module": cls.__module__,
            "class": cls.__qualname__,
            "arguments": keras.saving.serialize_keras_object(wrapped),
        }

    @classmethod
    def from_config(cls, config):
        if "dtype" in config:
            return tf.as_dtype(config["dtype"])
        arguments = keras.saving.deserialize_keras_object(config["arguments"])
        constructed = _known(config["module"], config["class"])
        if not inspect.isclass(constructed) or not issubclass(constructed, snt.Module | snt.initializers.Initializer):
            raise ValueError(
                f"core: {config['module']}.{config['class']}, must be a Sonnet module or initializer that Sonnet or "
                "tfmem.cores exports; a file imports no other module, so import your own core's before loading"
            )
        return constructed(**arguments)


def _known(module, name):
    """The export `name` of tfmem.cores or Sonnet, or of an already imported module; None if there is none."""
    exporting = {"sonnet": (snt, snt.initializers, snt.nets), "tfmem": (tfmem.cores,)}
    for package in exporting.get(module.partition(".")[0], ()):
        if name in package.__all__:
            return getattr(package, name)
    return getattr(sys.modules.get(module), "__dict__", {}).get(name)  # getattr(module, name) might import


def _scan(core):
    found = scan_of(core)
    if found is None:
        raise AttributeError("scan")
    return found
