"""LSTM + Kanerva (Gregor et al. 2019, "Shaping Belief States with Generative Environment Models for RL", App. B, C)."""

import math
from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import Linear, ReadOnly, RNNCore, SplitLinear, lstm_update
from tfmem.cores.kanerva.memory import KanervaMemory, MemoryState, address_matrix, innovate, posterior, solve_w
from tfmem.recurrence import unroll
from tfmem.validation import check_above_zero, check_choice, check_positive


class KanervaCoreState(NamedTuple):
    """State of `KanervaCore`."""

    hidden: tf.Tensor  # [B, H], b_t of the paper
    cell: tf.Tensor  # [B, H]
    memory: MemoryState


class KanervaCore(RNNCore):
    """LSTM + Kanerva: the memory is read before and written after the LSTM; no loss of its own.

    With inputs x_t = (action a_t, embedding e_t) and the LSTM's output b_t (Gregor et al., App. C and Figure 8):

        z_r = L [b_{t-1}, x_t]        read-out = read(memory, z_r)
        b_t = LSTM([x_t, read-out], b_{t-1})
        z_w = MLP [b_t, x_t]          memory = posterior(memory | z_w)

    The output is b_t [B, hidden_size]. The state is a `KanervaCoreState`; its memory stays in at least float32.

    Args:
      hidden_size: H, LSTM units (Table 2: 512 to 1024).
      memory_size: K, rows of the memory (Table 4).
      word_size: D, size of a row, of a read and a write word (Table 4).
      initial_noise_variance: where the trainable observation noise sigma_o^2 starts (Table 4).
      read_projection: "linear" or "mlp" (two layers, ReLU between them), from [x_t, b_{t-1}] to z_r.
      write_projection: the same, from [x_t, b_t] to z_w. The defaults are those of App. C's text, equation and
        Figure 8; Table 4 has them the other way round.
      projection_hidden_size: hidden layer of an "mlp" (Table 4).

    Raises:
      ValueError: a size or the variance is not positive, or a projection is neither "linear" nor "mlp".
    """

    input_layout = "features"

    def __init__(
        self,
        hidden_size,
        memory_size=32,
        word_size=512,
        initial_noise_variance=1.0,
        read_projection="linear",
        write_projection="mlp",
        projection_hidden_size=400,
        name="kanerva_core",
    ):
        super().__init__(name=name)
        check_positive(hidden_size=hidden_size, memory_size=memory_size, word_size=word_size)
        check_positive(projection_hidden_size=projection_hidden_size)
        check_above_zero(initial_noise_variance=initial_noise_variance)
        self.hidden_size = hidden_size
        self.memory_size = memory_size
        self.word_size = word_size
        self.initial_noise_variance = initial_noise_variance
        self.read_projection = read_projection
        self.write_projection = write_projection
        self.projection_hidden_size = projection_hidden_size
        self.memory = KanervaMemory(
            word_size, memory_size, obs_noise_stddev=0.0, initial_noise_stddev=math.sqrt(initial_noise_variance)
        )
        self._read_word = _Projection("read_projection", read_projection, word_size, projection_hidden_size)
        self._gates = SplitLinear(4 * hidden_size, random_bias=True, name="gates")
        self._write_word = _Projection("write_projection", write_projection, word_size, projection_hidden_size)

    @property
    def output_size(self):
        return self.hidden_size

    @property
    def state_size(self):
        vector = tf.TensorShape([self.hidden_size])
        mean, cov = [self.memory_size, self.word_size], [self.memory_size, self.memory_size]
        return KanervaCoreState(vector, vector, MemoryState(tf.TensorShape(mean), tf.TensorShape(cov)))

    def initial_state(self, batch_size, dtype=tf.float32):
        """Zeros for the LSTM (in `dtype`) and the learned prior memory (in at least float32)."""
        zeros = tf.zeros([batch_size, self.hidden_size], dtype)
        return KanervaCoreState(zeros, zeros, self.memory.get_prior_state(batch_size, dtype))

    def project_inputs(self, inputs):
        """x_t's share of the read word's, the gates' and the write word's first layers, for x [..., B, features]."""
        self.memory.initialize_prior(inputs.dtype)
        return *self.project_for_reading(inputs), self._write_word.project(inputs, self.hidden_size)

    def project_for_reading(self, inputs):
        """x_t's share of the read word and of the gates; makes no variable of the write projection."""
        self.memory.initialize_noise(inputs.dtype)
        read_share = self._read_word.project(inputs, self.hidden_size)
        self._gates.initialize(inputs.shape[-1], self.word_size + self.hidden_size, inputs.dtype)
        return read_share, self._gates.project(inputs)

    def step(self, projected, state):
        *for_reading, write_share = projected
        memory = state.memory
        noise_variance = self.memory.noise_stddev(memory.M_mean.dtype) ** 2
        factors = self.memory.factorize(memory.M_mean, noise_variance)

        def address(z):
            return solve_w(factors, memory.M_mean, z[tf.newaxis])[0]

        hidden, cell = self.read_and_update_lstm(for_reading, state, address)
        # z_w = MLP [b_t, x_t]
        z = tf.cast(self._write_word(write_share, hidden), memory.M_mean.dtype)
        w = address(z)
        innovation = innovate(memory, w, z, noise_variance)
        return hidden, KanervaCoreState(hidden, cell, posterior(memory, innovation))

    def read_and_update_lstm(self, for_reading, state, address):
        """The LSTM's next state; `address` gives the weights [B, K] that explain a word [B, C]."""
        read_share, gates_share = for_reading
        M = state.memory.M_mean
        # z_r = L [b_{t-1}, x_t]
        z = tf.cast(self._read_word(read_share, state.hidden), M.dtype)
        read = tf.linalg.matvec(M, address(z), transpose_a=True)
        # b_t = LSTM([x_t, read-out], b_{t-1})
        gates = self._gates(gates_share, tf.concat([tf.cast(read, state.hidden.dtype), state.hidden], -1))
        return lstm_update(gates, state.cell)

    def read_only(self):
        """A view of this core that reads its memory and never writes: for simulation (App. B).

        A core that is used through this view alone never makes the variables of the write projection. It makes those of
        the prior memory in `initial_state` only: a simulation starts from the state of another core.
        """
        return ReadOnlyKanerva(self, name=f"{self.name}_read_only")


class ReadOnlyKanerva(ReadOnly):
    """A `KanervaCore` that never writes; `scan` solves the memory once for all steps."""

    def project_inputs(self, inputs):
        return self.core.project_for_reading(inputs)

    def step(self, projected, state):
        hidden, cell = self.core.read_and_update_lstm(projected, state, self._address(state.memory))
        return hidden, KanervaCoreState(hidden, cell, state.memory)

    def scan(self, projected, state):
        """The loop of `unroll`, with the memory left out of the loop's variables."""
        address = self._address(state.memory)

        def step(projected, lstm):
            hidden, cell = self.core.read_and_update_lstm(projected, KanervaCoreState(*lstm, state.memory), address)
            return hidden, (hidden, cell)

        outputs, lstm = unroll(step, projected, (state.hidden, state.cell))
        return outputs, KanervaCoreState(*lstm, state.memory)

    def _address(self, memory):
        M = memory.M_mean
        W = address_matrix(self.core.memory.factorize(M), M)
        return lambda z: tf.linalg.matvec(W, z)


class _Projection(snt.Module):
    """From [x, h] to a word, linear or by a two-layer MLP."""

    def __init__(self, argument, kind, output_size, hidden_size):
        super().__init__(name=argument)
        check_choice(argument, kind, ("linear", "mlp"))
        self._first = SplitLinear(output_size if kind == "linear" else hidden_size, name="first")
        self._second = Linear(output_size, name="second") if kind == "mlp" else None

    def project(self, x, state_size):
        self._first.initialize(x.shape[-1], state_size, x.dtype)
        share = self._first.project(x)
        if self._second is not None:
            self._second.initialize(share.shape[-1], share.dtype)
        return share

    def __call__(self, x_share, h):
        first = self._first(x_share, h)
        return first if self._second is None else self._second(tf.nn.relu(first))
