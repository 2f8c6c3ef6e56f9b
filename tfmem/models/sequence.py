"""Models of sequences: a memory core with an output head.

`SequenceModel` maps the last output or every output to logits. `EncoderDecoder` reads a text with the core, then writes
the answer with it. Both take any core of `tfmem.cores`, Sonnet's or Keras's. Inside they are time-major, [T, B, ...];
`call` is batch-major.
"""

import itertools
from typing import Any, NamedTuple

import tensorflow as tf

from tfmem.backend import hand_on_trainable, keras
from tfmem.cores.keras_base import linear
from tfmem.interop import model_cell
from tfmem.recurrence import check_sequences, swap_batch_and_time, unroll
from tfmem.signatures import model_signatures
from tfmem.validation import positive_int, positive_ints

MLP_SIZES = (256, 256, 256, 256)  # Santoro et al. 2018, appendix A.1 and A.2, for every core that they compare


@keras.saving.register_keras_serializable(package="tfmem")
class Head(keras.layers.Layer):
    """An MLP with ReLU after every layer, then a linear map: [..., features] to float32 [..., output_size].

    Weights start as Sonnet's do: truncated normal with standard deviation 1/sqrt(fan-in), biases at zero.

    Args:
      output_size: number of logits.
      mlp_sizes: widths of the MLP's layers; () for the linear map alone.

    Raises:
      ValueError: a size is not a positive integer.
    """

    def __init__(self, output_size, mlp_sizes=(), **kwargs):
        super().__init__(**kwargs)
        self.output_size = positive_int("output_size", output_size)
        self.mlp_sizes = positive_ints("mlp_sizes", mlp_sizes)

    def build(self, input_shape):
        sizes = [input_shape[-1], *self.mlp_sizes, self.output_size]
        self.kernels, self.biases = [], []
        for index, (fan_in, size) in enumerate(itertools.pairwise(sizes)):
            init = keras.initializers.TruncatedNormal(stddev=fan_in**-0.5)
            self.kernels.append(self.add_weight(shape=(fan_in, size), initializer=init, name=f"kernel_{index}"))
            self.biases.append(self.add_weight(shape=(size,), initializer="zeros", name=f"bias_{index}"))

    def call(self, inputs):
        *hidden, last = zip(self.kernels, self.biases, strict=True)
        for kernel, bias in hidden:
            inputs = tf.nn.relu(linear(inputs, kernel, bias))
        return tf.cast(linear(inputs, *last), tf.float32)

    def get_config(self):
        return {**super().get_config(), "output_size": self.output_size, "mlp_sizes": self.mlp_sizes}


class CoreModel(keras.Model):
    """Base of models with a core: the core as a Keras cell, `cell`, a `head` on its output, and saving."""

    def __init__(self, core, output_size, mlp_sizes, **kwargs):
        super().__init__(**kwargs)
        self.cell = model_cell(core)
        self.head = Head(output_size, mlp_sizes, name="head", dtype=self.dtype_policy)
        hand_on_trainable(self)

    def build_step(self, step_shape, core_shape=None):
        """Build cell and head for steps of a shape; `core_shape` where the core's input differs."""
        self.step_shape = tuple(step_shape)
        if not self.cell.built:
            self.cell.build((None, *(core_shape or self.step_shape)))
        self.read_shape = tf.TensorShape(tf.nest.flatten(self.cell.output_size)[0])
        self.head.build((None, self.read_shape.num_elements()))
        self.built = True

    def get_initial_state(self, batch_size):
        """The core's own initial state."""
        return self.cell.get_initial_state(batch_size=batch_size)

    def logits(self, outputs):
        """The head on outputs of the core [..., B, ...] with any leading axes; of a nest, on its first tensor."""
        first = tf.nest.flatten(outputs)[0]
        leading = first.shape.rank - self.read_shape.rank
        flat = tf.reshape(first, tf.concat([tf.shape(first)[:leading], [self.read_shape.num_elements()]], 0))
        flat.set_shape([*first.shape[:leading], self.read_shape.num_elements()])
        return self.head(flat)

    def get_config(self):
        return {
            **super().get_config(),
            "core": keras.saving.serialize_keras_object(self.cell),
            "mlp_sizes": self.head.mlp_sizes,
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("core")), **config)

    def get_build_config(self):
        return {"step_shape": self.step_shape}

    def build_from_config(self, config):
        self.build_step(config["step_shape"])


class SequenceOutput(NamedTuple):
    """Result of `SequenceModel.run`; `outputs` are all outputs of the core, [T, B, ...]."""

    logits: tf.Tensor
    outputs: Any
    state: Any


@keras.saving.register_keras_serializable(package="tfmem")
class SequenceModel(CoreModel):
    """A core over a sequence, and an MLP with logits on its last output or on every output.

    With the defaults the Nth-farthest model of Santoro et al. 2018, appendix A.1 (Sonnet 1's
    examples/rmc_nth_farthest.py).

    Args:
      core: a core of `tfmem.cores`. Where its output is a nest of tensors, the head reads the first; the others are in
        `SequenceOutput.outputs` (the metalearned memory's `meta_loss`). Output axes behind the batch are flattened.
      output_size: number of logits.
      mlp_sizes: widths of the layers between the core and the logits; () for none. Default: the paper's four of 256.
      return_sequences: logits of every step, not only of the last. Default False.
      embedding_size: output size of a linear map of each step's input, before the core; for one-hot inputs an
        embedding. Its weights start as standard normal numbers. Default None: no such map.

    Call arguments: inputs [B, T, ...]; `initial_state`, by default the core's own. Returns logits [B, output_size]
    or [B, T, output_size]; with `return_state=True`, (logits, state).

    Raises:
      ValueError: `core` is not a core, such as a configuration of `tfmem.cores.config`; a size is not a positive
        integer; inputs have another shape.
    """

    def __init__(self, core, output_size, mlp_sizes=MLP_SIZES, return_sequences=False, embedding_size=None, **kwargs):
        super().__init__(core, output_size, mlp_sizes, **kwargs)
        self.return_sequences = return_sequences
        self.embedding_size = None if embedding_size is None else positive_int("embedding_size", embedding_size)

    def build(self, input_shape):
        check_sequences(self.cell, input_shape)
        self.build_step(input_shape[2:])

    def build_step(self, step_shape):
        if self.embedding_size is None:
            super().build_step(step_shape)
        else:
            shape = (step_shape[-1], self.embedding_size)
            self.embedding = self.add_weight(shape=shape, initializer=keras.initializers.RandomNormal(stddev=1.0))
            super().build_step(step_shape, (self.embedding_size,))

    def embed(self, inputs):
        """The core's inputs from inputs [..., features]."""
        return inputs if self.embedding_size is None else linear(inputs, self.embedding)

    def run(self, inputs, state=None, lengths=None):
        """Time-major: inputs [T, B, ...] to a `SequenceOutput` with logits [B, K] or [T, B, K].

        With `lengths`, int [B], the last output of a sequence is that of its last valid step.
        """
        inputs = tf.cast(inputs, self.compute_dtype)
        if state is None:
            state = self.get_initial_state(inputs.shape[1] or tf.shape(inputs)[1])
        outputs, state = unroll(self.cell, self.embed(inputs), state)
        read = tf.nest.flatten(outputs)[0]
        if not self.return_sequences:
            read = read[-1] if lengths is None else tf.gather(swap_batch_and_time(read), lengths - 1, batch_dims=1)
        return SequenceOutput(self.logits(read), outputs, state)

    def call(self, inputs, initial_state=None, return_state=False):
        inputs = tf.convert_to_tensor(inputs)
        check_sequences(self.cell, inputs.shape)
        logits, _, state = self.run(swap_batch_and_time(inputs), initial_state)
        logits = swap_batch_and_time(logits) if self.return_sequences else logits
        return (logits, state) if return_state else logits

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`: `step`, `sequence`, `sequence_from_state`, `initial_state`."""

        def step(state, inputs):
            outputs, state = self.cell(self.embed(inputs), state)
            return {"logits": self.logits(outputs), "state": state}

        def sequence_from_state(state, inputs):
            logits, state = self(inputs, initial_state=state, return_state=True)
            return {"logits": logits, "state": state}

        inputs = tf.TensorSpec([None, *self.step_shape], self.compute_dtype)
        sequence = tf.TensorSpec([None, None, *self.step_shape], self.compute_dtype)
        return model_signatures(self, step, sequence_from_state, {"inputs": inputs}, {"inputs": sequence})

    def get_config(self):
        return {
            **super().get_config(),
            "output_size": self.head.output_size,
            "return_sequences": self.return_sequences,
            "embedding_size": self.embedding_size,
        }


@keras.saving.register_keras_serializable(package="tfmem")
class EncoderDecoder(CoreModel):
    """Read a text of tokens with a core and write the answer, from its last state, with the same core or another.

    Santoro et al. 2018, appendix A.2; Sonnet 1's examples/rmc_learn_to_execute.py. Tokens enter one-hot. Input while
    the answer is written:

        without `start_token`      zeros (the public code; "non-auto-regressive")
        with it, targets given     the start token, then the answer itself (teacher forcing)
        with it, no targets        the start token, then the likeliest token of the previous step

    Args:
      core: a core of `tfmem.cores`, as in `SequenceModel`.
      vocabulary_size: number of tokens.
      start_token: the core's first input while it writes. Default None: the input is zeros at every step.
      mlp_sizes: as in `SequenceModel`.
      decoder: a core with a state like `core`'s, which writes the answer. Default None: `core` itself, as in the public
        code. Paper: an encoder and a decoder.

    Call arguments: tokens, int [B, T]; `lengths`, int [B], number of valid tokens (default: all); `num_steps` of the
    answer; `targets` [B, num_steps] for teacher forcing; `answer_lengths`, int [B], number of valid steps of the answer
    (default: all). Returns logits [B, num_steps, vocabulary_size]. After an answer's end they are those of an output
    of zeros, as in the public code.

    Raises:
      ValueError: `core` or `decoder` is not a core, or a size is not a positive integer.
    """

    def __init__(self, core, vocabulary_size, start_token=None, mlp_sizes=MLP_SIZES, decoder=None, **kwargs):
        super().__init__(core, positive_int("vocabulary_size", vocabulary_size), mlp_sizes, **kwargs)
        self.vocabulary_size = vocabulary_size
        self.start_token = start_token
        self.decoder = None if decoder is None else model_cell(decoder, "decoder")
        hand_on_trainable(self)

    def build(self, input_shape=None):
        self.build_step([self.vocabulary_size])

    def build_step(self, step_shape):
        if self.decoder is not None and not self.decoder.built:
            self.decoder.build((None, *step_shape))
        super().build_step(step_shape)

    @property
    def writing_cell(self):
        """The cell that writes the answer."""
        return self.cell if self.decoder is None else self.decoder

    def embed(self, tokens):
        """One-hot; zeros for -1."""
        return tf.one_hot(tokens, self.vocabulary_size, dtype=self.compute_dtype)

    def encode(self, tokens, lengths=None):
        """The state after reading tokens [T, B]; tokens after `lengths` [B] are not read."""
        state = self.get_initial_state(tokens.shape[1] or tf.shape(tokens)[1])
        _, state = unroll(self.cell, self.embed(tokens), state, sequence_length=lengths)
        return state

    def decode(self, state, tokens, lengths=None):
        """Logits [T, B, V] and the state after feeding tokens [T, B]; after `lengths` [B] the output is zeros."""
        outputs, state = unroll(self.writing_cell, self.embed(tokens), state, sequence_length=lengths)
        return self.logits(outputs), state

    def generate(self, state, num_steps, lengths=None):
        """`decode` with the likeliest token of each step as the input of the next."""
        batch = tf.shape(tf.nest.flatten(state)[0])[0]

        def step(_, carried):
            state, token = carried
            outputs, state = self.writing_cell(self.embed(token), state)
            return outputs, (state, tf.argmax(self.logits(outputs), -1, tf.int32))

        start = tf.fill([batch], tf.constant(self.start_token, tf.int32))
        outputs, (state, _) = unroll(step, tf.zeros([num_steps, batch]), (state, start), sequence_length=lengths)
        return self.logits(outputs), state

    def run(self, tokens, lengths=None, num_steps=None, targets=None, answer_lengths=None):
        """`call`, time-major: tokens [T, B] to logits [num_steps, B, V]."""
        if num_steps is None and (targets is None or self.start_token is None):
            raise ValueError("num_steps: None, must be given unless targets are fed")
        state = self.encode(tokens, lengths)
        if self.start_token is None:
            blank = tf.fill([tf.cast(num_steps, tf.int32), tf.shape(tokens)[1]], -1)
            logits, _ = self.decode(state, blank, answer_lengths)
        elif targets is None:
            logits, _ = self.generate(state, tf.cast(num_steps, tf.int32), answer_lengths)
        else:
            start = tf.fill(tf.shape(targets[:1]), tf.constant(self.start_token, targets.dtype))
            logits, _ = self.decode(state, tf.concat([start, targets[:-1]], 0), answer_lengths)
        return logits

    def call(self, tokens, lengths=None, num_steps=None, targets=None, answer_lengths=None):
        targets = None if targets is None else tf.transpose(targets)
        return swap_batch_and_time(self.run(tf.transpose(tokens), lengths, num_steps, targets, answer_lengths))

    def export_functions(self):
        """Signatures of `tfmem.export.saved_model`.

        `step` feeds one token (-1: zeros) in reading and in writing; with a decoder, `step` reads and `writing_step`
        writes. `sequence` reads `tokens` up to `lengths` and writes an answer of `num_steps`.
        """
        state = tf.nest.map_structure(lambda s: tf.TensorSpec([None, *s.shape[1:]], s.dtype), self.get_initial_state(1))

        def step_of(cell):
            def step(token, state):
                outputs, state = cell(self.embed(token), state)
                return {"logits": self.logits(outputs), "state": state}

            return step, {"token": vector, "state": state}

        def sequence(tokens, lengths, num_steps):
            # One more token, which `lengths` leaves out, and one answer at least: a loop needs a step.
            tokens = tf.pad(tokens, [[0, 0], [0, 1]])
            lengths = tf.minimum(lengths, tf.shape(tokens)[1] - 1)
            return {"logits": self(tokens, lengths=lengths, num_steps=tf.maximum(num_steps, 1))[:, :num_steps]}

        def initial_state(batch_size):
            return {"state": self.get_initial_state(batch_size)}

        vector, scalar = tf.TensorSpec([None], tf.int32), tf.TensorSpec([], tf.int32)
        tokens = tf.TensorSpec([None, None], tf.int32)
        return {
            "step": step_of(self.cell),
            **({} if self.decoder is None else {"writing_step": step_of(self.decoder)}),
            "sequence": (sequence, {"tokens": tokens, "lengths": vector, "num_steps": scalar}),
            "initial_state": (initial_state, {"batch_size": scalar}),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "start_token": self.start_token,
            "decoder": None if self.decoder is None else keras.saving.serialize_keras_object(self.decoder),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if config.get("decoder") is not None:
            config["decoder"] = keras.saving.deserialize_keras_object(config["decoder"])
        return super().from_config(config)
