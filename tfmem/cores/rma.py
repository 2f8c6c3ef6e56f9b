"""Slot memory of the Reconstructive Memory Agent, and an LSTM with it.

Paper: Gregor et al. 2019, "Shaping Belief States with Generative Environment Models for RL", Appendix B, C and Table 3;
the memory is from Hung et al. 2019, "Optimizing agent behavior over long time scales by transporting value".
Public code: deepmind-research `tvt/memory.py` and `tvt/rma.py`.

Letters: B batch, K rows, D word size, H reads, k rows per read. With [., .] a concatenation and sg a stop-gradient:

    key_h, strength_h = L q, softplus(L q)                       read words from the query q
    score_hi = strength_h cos(key_h, M_i)                        for every row i
    w_h = softmax(score_h over its k largest);  r_h = sum_i w_hi M_i
    M_n = sg(z), with n = step mod K                             write

    order="paper" (Appendix C)          order="code" (tvt)
    q = [x, h_{t-1}];  r_t = read(q)    z_t = MLP([x, h_{t-1}, r_{t-1}])
    h_t = LSTM([x, r_t])                h_t = LSTM(z_t)
    z_t = MLP([x, h_t]);  write(z_t)    q = h_t;  r_t = read(q);  write(z_t)

    output_t = [z_t, h_t, r_t]
"""

from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import Linear, ReadOnly, RNNCore, SplitLinear, lstm_update, variable_dtype
from tfmem.cores.rma_memory import EPSILON, MemoryBefore, MemoryOverTime, inverse_norm, read, write
from tfmem.recurrence import same_batch, unroll
from tfmem.validation import check_choice, check_positive, is_integer


class RMAState(NamedTuple):
    """State of an `RMACore`. `initial_state(...).with_memory(memory)` starts from another memory."""

    lstm: tuple  # of snt.LSTMState(hidden [B, hidden_size], cell [B, hidden_size]), one per layer
    memory: tf.Tensor  # [B, K, D]
    inverse_norms: tf.Tensor  # [B, K], 1 / |row|, stored because only one row changes per step
    reads: tf.Tensor  # [B, H D], the read-outs of the last step
    write_counter: tf.Tensor  # [B] int32, writes so far

    def with_memory(self, memory, write_counter=None):
        """Copy of this state with another memory [B, K, D] and, optionally, another number of writes [B]."""
        norms = tf.cast(inverse_norm(tf.cast(memory, variable_dtype(memory.dtype))), self.inverse_norms.dtype)
        count = self.write_counter if write_counter is None else tf.cast(write_counter, self.write_counter.dtype)
        return self._replace(memory=memory, inverse_norms=norms, write_counter=count)


class _ReadOnly(ReadOnly):
    def step(self, projected, state):
        return super().step(projected, _without_gradient(state))

    def scan(self, projected, state):
        """Loop of `unroll` that does not carry the memory."""
        state = _without_gradient(state)

        def step(projected, carried):
            output, after = self.step(projected, state._replace(**carried))
            return output, {name: getattr(after, name) for name in carried}

        outputs, carried = unroll(step, projected, {"lstm": state.lstm, "reads": state.reads})
        return outputs, state._replace(**carried)


def _without_gradient(state):
    memory, inverse_norms = tf.stop_gradient(state.memory), tf.stop_gradient(state.inverse_norms)
    return state._replace(memory=memory, inverse_norms=inverse_norms)


def check_top_k(top_k, memory_size):
    """Raise a ValueError unless `top_k` is an integer from 0 to `memory_size` (None: unknown)."""
    if not is_integer(top_k, 0) or (memory_size is not None and top_k > memory_size):
        limit = "of at least 0" if memory_size is None else f"from 0 to memory_size = {memory_size} (0: all rows)"
        raise ValueError(f"top_k: {top_k!r}, must be an integer {limit}")


class RMAReader(snt.Module):
    """Content-based reader of a slot memory. Public code: `MemoryReader` of tvt/memory.py.

    Args:
      num_reads: H, reads per step.
      word_size: D, width of a row.
      top_k: rows in each read; 0 for all.
      memory_size: K, number of rows; if given, the memory is checked against it.

    Raises:
      ValueError: an argument is out of range, or (when called) the memory is not [B, memory_size, word_size].
    """

    def __init__(self, num_reads, word_size, top_k=0, memory_size=None, name=None):
        super().__init__(name=name)
        check_positive(num_reads=num_reads, word_size=word_size)
        if memory_size is not None:
            check_positive(memory_size=memory_size)
        check_top_k(top_k, memory_size)
        self.num_reads = num_reads
        self.word_size = word_size
        self.top_k = top_k
        self.memory_size = memory_size
        self.linear = Linear(num_reads * (word_size + 1), name="linear")

    def __call__(self, read_inputs, memory):
        """Read with the words `linear(read_inputs)`: `(reads [B, H D], ReadInformation)`."""
        check_memory(memory, self.memory_size, self.word_size)
        check_top_k(self.top_k, memory.shape[1])
        memory = same_batch(read_inputs, memory, "memory")
        return read(self.linear(read_inputs), memory, self.num_reads, self.top_k)


class RMAWriter(snt.RNNCore):
    """Writer of one row per step, the oldest once the memory is full. Public code: `MemoryWriter` of tvt/memory.py.

    The inputs are `(z [B, D], memory [B, K, D])`, the output is the new memory, the state counts the writes ([B]).

    Args:
      mem_shape: (K, D).

    Raises:
      ValueError: `mem_shape` is not two positive integers, or (when called) the memory is not [B, K, D].
    """

    def __init__(self, mem_shape, name=None):
        super().__init__(name=name)
        if len(tuple(mem_shape)) != 2:
            raise ValueError(f"mem_shape: {mem_shape!r}, must be (memory_size, word_size)")
        memory_size, word_size = mem_shape
        check_positive(**{"mem_shape[0]": memory_size, "mem_shape[1]": word_size})
        self.mem_shape = (memory_size, word_size)

    @property
    def state_size(self):
        return tf.TensorShape([])

    @property
    def output_size(self):
        return tf.TensorShape(self.mem_shape)

    def initial_state(self, batch_size, dtype=tf.int32):
        return tf.zeros([batch_size], dtype)

    def __call__(self, inputs, prev_state):
        z, memory = inputs
        check_memory(memory, *self.mem_shape)
        prev_state = same_batch(inputs, prev_state)
        return write(z, memory, prev_state), prev_state + 1


def check_memory(memory, memory_size, word_size):
    """Raise a ValueError unless a memory has the shape [B, memory_size, word_size]; memory_size None: any."""
    if not memory.shape.is_compatible_with([None, memory_size, word_size]):
        raise ValueError(f"memory: shape {memory.shape}, must be [B, {memory_size or 'K'}, {word_size}]")


class RMACore(RNNCore):
    """LSTM with the slot memory of the Reconstructive Memory Agent ("LSTM + RMA" of Gregor et al. 2019).

    Output [B, D + hidden_size num_layers + H D]: the word z, the LSTM's output, the read-outs. The word is part of the
    output because of the stop-gradient: it learns from uses of the output, as in tvt, never from reads.

    Args:
      hidden_size: units of each LSTM layer (512 to 1024 in the paper's Table 2).
      memory_size: K, rows; an empty memory is all zeros.
      word_size: D.
      num_reads: H.
      top_k: rows in each read; 0 for all.
      num_layers: LSTM layers with skip connections: each gets the input and the layer below; all are in the output.
      order: "paper" (Appendix C) reads before the LSTM with a query from its last output and the input, feeds it the
        input and the read-outs, and writes a word from its new output and the input. "code" (tvt's `_RMACore`)
        computes the word first, feeds it to the LSTM and reads last. Equations are at the top of this file.

    An MLP of 2D and D units with tanh between computes the word (tvt), a linear map the read words.

    Raises:
      ValueError: an argument is out of range.
    """

    input_layout = "features"

    def __init__(
        self,
        hidden_size,
        memory_size=1350,
        word_size=200,
        num_reads=3,
        top_k=50,
        num_layers=1,
        order="paper",
        name=None,
    ):
        super().__init__(name=name)
        check_positive(
            hidden_size=hidden_size,
            memory_size=memory_size,
            word_size=word_size,
            num_reads=num_reads,
            num_layers=num_layers,
        )
        check_top_k(top_k, memory_size)
        check_choice("order", order, ("paper", "code"))
        self.hidden_size = hidden_size
        self.memory_size = memory_size
        self.word_size = word_size
        self.num_reads = num_reads
        self.top_k = top_k
        self.num_layers = num_layers
        self.order = order

        self.word_hidden = SplitLinear(2 * word_size, name="word_hidden")
        self.word = Linear(word_size, name="word")
        self.gates = [SplitLinear(4 * hidden_size, random_bias=True, name="gates") for _ in range(num_layers)]
        read_words_size = num_reads * (word_size + 1)
        reads_first = order == "paper"
        self.read_words = (SplitLinear if reads_first else Linear)(read_words_size, name="read_words")

    @property
    def state_size(self):
        hidden = tf.TensorShape([self.hidden_size])
        return RMAState(
            lstm=(snt.LSTMState(hidden, hidden),) * self.num_layers,
            memory=tf.TensorShape([self.memory_size, self.word_size]),
            inverse_norms=tf.TensorShape([self.memory_size]),
            reads=tf.TensorShape([self.num_reads * self.word_size]),
            write_counter=tf.TensorShape([]),
        )

    @property
    def output_size(self):
        return self.word_size + self.num_layers * self.hidden_size + self.num_reads * self.word_size

    def initial_state(self, batch_size, dtype=tf.float32):
        def zeros(shape):
            return tf.zeros([batch_size, *shape], dtype)

        sizes = self.state_size
        norms_dtype = variable_dtype(dtype)  # an empty row's 1e6 exceeds float16
        return RMAState(
            lstm=tf.nest.map_structure(zeros, sizes.lstm),
            memory=zeros(sizes.memory),
            inverse_norms=tf.fill([batch_size, self.memory_size], tf.cast(EPSILON**-0.5, norms_dtype)),
            reads=zeros(sizes.reads),
            write_counter=tf.zeros([batch_size], tf.int32),
        )

    def read_only(self):
        """View of this core with the same variables that never writes, for simulation (Appendix B).

        Its memory gets no gradient either, because words are stored without one.
        """
        return _ReadOnly(self, name=f"{self.name}_read_only")

    @snt.once
    def _initialize(self, input_size, dtype):
        controller, reads = self.num_layers * self.hidden_size, self.num_reads * self.word_size
        if self.order == "paper":
            self.word_hidden.initialize(input_size, controller, dtype)
            self.read_words.initialize(input_size, controller, dtype)
            gates_input, gates_extra = input_size, reads
        else:
            self.word_hidden.initialize(input_size, controller + reads, dtype)
            self.read_words.initialize(controller, dtype)
            gates_input, gates_extra = self.word_size, 0
        self.word.initialize(2 * self.word_size, dtype)
        for layer, gates in enumerate(self.gates):
            below = 0 if layer == 0 else self.hidden_size
            gates.initialize(gates_input, gates_extra + below + self.hidden_size, dtype)

    def project_inputs(self, inputs):
        """Contributions of inputs [..., B, features] to the word, the read words and the gates."""
        self._initialize(inputs.shape[-1], inputs.dtype)
        if self.order == "paper":
            return [layer.project(inputs) for layer in (self.word_hidden, self.read_words, *self.gates)]
        return [self.word_hidden.project(inputs)]

    def step(self, projected, state, write=True):
        z, controller, reads, _, state = self.parts(projected, state, write)
        return tf.concat([z, controller, reads], -1), state

    def parts(self, projected, state, write=True, read=None):
        """Compute one step with separate outputs: `(z, LSTM output, reads, ReadInformation, next_state)`.

        `read`, by default of the state's memory: a function of read words, state and dtype to reads and information.
        """
        read = read or self._read
        dtype = projected[0].dtype
        lstm = tf.nest.map_structure(lambda s: tf.cast(s, dtype), state.lstm)
        if self.order == "paper":
            word_share, read_share, *gate_shares = projected
            read_words = self.read_words(read_share, tf.concat([layer.hidden for layer in lstm], -1))
            reads, information = read(read_words, state, dtype)
            controller, lstm = self._control(gate_shares, [reads], lstm)
            z = self.word(tf.tanh(self.word_hidden(word_share, controller)))
        else:
            context = [*(layer.hidden for layer in lstm), tf.cast(state.reads, dtype)]
            z = self.word(tf.tanh(self.word_hidden(projected[0], tf.concat(context, -1))))
            controller, lstm = self._control([gates.project(z) for gates in self.gates], [], lstm)
            reads, information = read(self.read_words(controller), state, dtype)
        memory = self._write(z, state) if write else {}
        lstm = tf.nest.map_structure(lambda new, old: tf.cast(new, old.dtype), lstm, state.lstm)
        next_state = state._replace(lstm=lstm, reads=tf.cast(reads, state.reads.dtype), **memory)
        return z, controller, reads, information, next_state

    @tf.autograph.experimental.do_not_convert
    def scan(self, projected, state):
        """All steps at once. A loop of at most K steps carries the new rows alone, not the memory."""
        outputs, _, state = self.scan_states(projected, state, keep=False)
        return outputs, state

    @tf.autograph.experimental.do_not_convert
    def scan_states(self, projected, state, keep=True):
        """All steps at once, with the states after each: `(outputs [T, B, ...], states, final_state)`.

        `states` is an `RMAState` of [T, B, ...]; for at most K steps with `MemoryOverTime` in place of the memory and
        its norms. () unless `keep`.
        """
        steps = projected[0].shape[0]
        if steps is None or steps > self.memory_size:

            def plain_step(projected, state):
                output, state = self.step(projected, state)
                return (output, state if keep else ()), state

            (outputs, states), state = unroll(plain_step, projected, state)
            return outputs, states, state
        before = MemoryBefore(state, self.num_reads, self.top_k)
        batch, dtype = tf.shape(state.reads)[0], projected[0].dtype
        words, new = None, None  # read words of all steps and the new rows, which the gradient needs

        @tf.custom_gradient
        def gradient_for_memory(memory):
            """Zeros that are added to the reads: the loop's gradient leaves out the memory before the sequence."""

            def gradient(d_reads):
                def body(t, total):
                    with tf.GradientTape(watch_accessed_variables=False) as tape:
                        tape.watch(memory)
                        reads = before.with_gradient(memory).read(words[t], new, tf.fill([batch], t))
                    return t + 1, total + tf.convert_to_tensor(tape.gradient(reads, memory, d_reads[t]))

                start = 0, tf.zeros_like(memory)
                return tf.while_loop(lambda t, _: t < steps, body, start, maximum_iterations=steps)[1]

            return tf.zeros([steps, batch, state.reads.shape[1]], dtype), gradient

        def step(inputs, inner):
            share, zeros = inputs
            used = []

            def read_both(read_words, inner, dtype):
                used.append(tf.stop_gradient(read_words))
                reads = before.read(read_words, inner, inner.write_counter)
                return tf.cast(reads, dtype) + zeros, None

            z, controller, reads, _, inner = self.parts(share, inner, read=read_both)
            kept = (inner.lstm, inner.reads) if keep else ()
            return (tf.concat([z, controller, reads], -1), used[0], kept), inner

        def room(x):
            return tf.zeros([batch, steps, *x.shape[2:]], x.dtype)

        inner = state._replace(
            memory=room(state.memory),
            inverse_norms=room(state.inverse_norms),
            write_counter=tf.zeros_like(state.write_counter),
        )
        (outputs, words, kept), new = unroll(step, (projected, gradient_for_memory(state.memory)), inner)
        rows = tf.stop_gradient(new.memory)
        states = ()
        if keep:
            lstm, reads = kept
            counter = state.write_counter + 1 + tf.range(steps)[:, tf.newaxis]
            memory = MemoryOverTime(state.memory, rows, before.age)
            states = RMAState(
                lstm, memory, MemoryOverTime(state.inverse_norms, new.inverse_norms, before.age), reads, counter
            )
        index = (state.write_counter[:, tf.newaxis] + tf.range(steps)) % self.memory_size
        index = tf.stack([tf.range(batch)[:, tf.newaxis] + tf.zeros_like(index), index], -1)
        state = new._replace(
            memory=tf.tensor_scatter_nd_update(state.memory, index, rows),
            inverse_norms=tf.tensor_scatter_nd_update(state.inverse_norms, index, new.inverse_norms),
            write_counter=state.write_counter + steps,
        )
        return outputs, states, state

    def _control(self, shares, extra, lstm):
        below, layers = [], []
        for gates, share, (hidden, cell) in zip(self.gates, shares, lstm, strict=True):
            layers.append(lstm_update(gates(share, tf.concat([*extra, *below, hidden], -1)), cell))
            below = [layers[-1].hidden]
        return tf.concat([layer.hidden for layer in layers], -1), tuple(layers)

    def _read(self, read_words, state, dtype):
        reads, information = read(read_words, state.memory, self.num_reads, self.top_k, state.inverse_norms)
        return tf.cast(reads, dtype), information

    def _write(self, z, state):
        z = tf.stop_gradient(z)
        norm = inverse_norm(tf.cast(z, variable_dtype(z.dtype)))
        return dict(
            memory=write(z, state.memory, state.write_counter),
            inverse_norms=write(norm, state.inverse_norms, state.write_counter),
            write_counter=state.write_counter + 1,
        )
