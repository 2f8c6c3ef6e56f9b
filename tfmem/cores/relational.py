"""Relational Memory Core (RMC): Santoro et al., Relational recurrent neural networks, NeurIPS 2018, section 3.

Faithful to Sonnet 1's `sonnet/python/modules/relational_memory.py`. With memory M [slots, size], projected input
rows X = W x and h = tanh(M), one step is

    [Q; K; V]  = LN(W_qkv [M; X])                    the norm spans queries, keys and values of all heads
    A          = softmax(Q K^T / sqrt(key_size)) V   for each head                                        (eq. 2)
    R          = LN([M; X] + A)
    R          = LN(R + MLP(R))                      repeated num_blocks times, with one MLP for all blocks
    i, f       = W_x X + b_x + W_h h + b_h                                                                (eqs. 4-6)
    M'         = sigmoid(i + input_bias) tanh(R) + sigmoid(f + forget_bias) M   (R without its input rows)  (eq. 7)

and the output is M', flattened. With the paper's output gate o, a third gate, the output is h' = sigmoid(o) tanh(M')
(eq. 8); h' also replaces tanh(M) in the next step's gates.
"""

from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf

from tfmem.cores.base import LayerNorm, Linear, RNNCore, matmul, variable_dtype
from tfmem.validation import check_choice, is_integer

GATE_STYLES = ("unit", "memory", None)


class RelationalMemoryState(NamedTuple):
    """State without an output gate: `memory` [B, mem_slots, head_size * num_heads]."""

    memory: tf.Tensor


class OutputGatedState(NamedTuple):
    """State with an output gate: `memory` and `hidden` (the paper's h), both [B, mem_slots, M]."""

    memory: tf.Tensor
    hidden: tf.Tensor


class ProjectedInput(NamedTuple):
    """State-independent part of a step; `()` for parts that a configuration does not need.

    `rows` [..., n, M]: the projected input. `qkv` [..., n, heads * (2 key_size + head_size)]: its queries, keys and
    values in the first block. `gates` [..., width]: its contribution to the gates with all their constants.
    """

    rows: Any
    qkv: tf.Tensor
    gates: Any


def attend(queries, keys_values):
    """Dot-product attention of `queries` [B, H, q, k] over the joint rows of several (keys, values) (eq. 2).

    Keys [B, H, r, k] and values [B, H, r, v] of the parts stay separate; only the small scores are concatenated. The
    softmax is computed in at least float32.
    """
    rows = [keys.shape[-2] for keys, _ in keys_values]
    scale, dtype = queries.shape[-1] ** -0.5, queries.dtype

    def scores(x, parts):
        products = tf.concat([tf.matmul(x, part, transpose_b=True) for part in parts], -1)
        return tf.cast(scale * products, variable_dtype(dtype))

    def weighted(weights, parts):
        weights = tf.split(tf.cast(weights, dtype), rows, -1)
        return tf.add_n([tf.matmul(w, part) for w, part in zip(weights, parts, strict=True)])

    def of_parts(weights, x):
        return [tf.matmul(w, x) for w in tf.split(tf.cast(weights, dtype), rows, -2)]

    # A gradient by hand, for XLA on a CPU. Its products of many small matrices take six times as long if the first one
    # is transposed, and it makes a transposition a part of the product unless an operation comes between. ReLU leaves
    # the weights as they are.
    @tf.custom_gradient
    def run(queries, *keys_values):
        keys, values = keys_values[: len(rows)], keys_values[len(rows) :]
        weights = tf.nn.softmax(scores(queries, keys))

        def gradient(d):
            slopes = scores(d, values)
            slopes -= tf.reduce_sum(weights * slopes, -1, keepdims=True)
            transposed = tf.nn.relu(tf.linalg.matrix_transpose(weights))
            d_keys = of_parts(transposed * tf.linalg.matrix_transpose(slopes), queries)
            return weighted(weights * slopes, keys), *d_keys, *of_parts(transposed, d)

        return weighted(weights, values), gradient

    return run(queries, *(keys for keys, _ in keys_values), *(values for _, values in keys_values))


class _Block(snt.Module):
    """Parameters of one attention block: the qkv projection and three layer norms."""

    def __init__(self, num_heads, key_size, head_size, name=None):
        super().__init__(name=name)
        self._num_heads, self._key_size, self._head_size = num_heads, key_size, head_size
        self.qkv_linear = Linear(num_heads * (2 * key_size + head_size), name="qkv")
        self.qkv_norm = LayerNorm(name="qkv_norm")
        self.attention_norm = LayerNorm(name="attention_norm")
        self.mlp_norm = LayerNorm(name="mlp_norm")

    def initialize(self, mem_size, dtype):
        self.qkv_linear.initialize(mem_size, dtype)
        self.qkv_norm.initialize(self.qkv_linear.output_size, dtype)
        self.attention_norm.initialize(mem_size, dtype)
        self.mlp_norm.initialize(mem_size, dtype)

    def qkv(self, rows):
        return self.qkv_norm(self.qkv_linear(rows))

    def split_heads(self, qkv, num_rows):
        """Split [B r, H (2k + v)] into queries [B, H, r, k], keys [B, H, r, k] and values [B, H, r, v]."""
        sizes = [self._key_size, self._key_size, self._head_size]
        heads = tf.reshape(qkv, [-1, num_rows, self._num_heads, sum(sizes)])
        return tf.split(tf.transpose(heads, [0, 2, 1, 3]), sizes, -1)


class RelationalMemory(RNNCore):
    """Relational Memory Core: memory slots that attend to each other and to the input.

    It suits tasks whose answer depends on relations between inputs of different times. `core(inputs, state)` takes
    inputs [B, features] (with `treat_input_as_matrix` [B, n, features]) and a `RelationalMemoryState`, and returns an
    output [B, mem_slots * M] with M = head_size * num_heads, and the next state. The initial memory is the identity,
    cut or zero-padded to M columns.

    Faithful to Sonnet 1's `RelationalMemory` (sonnet/python/modules/relational_memory.py), which differs from the
    paper's section 3 in layer normalisation of queries, keys and values, in a tanh on the candidate, and in input
    rows that are updated between blocks.

    Args:
      mem_slots: number of memory rows.
      head_size: size of an attention head's values.
      num_heads: number of attention heads.
      num_blocks: attention blocks per step.
      forget_bias: added to the forget gates before the sigmoid.
      input_bias: added to the input gates before the sigmoid.
      gate_style: 'unit' (a gate per element), 'memory' (one per slot) or None (the attended memory is the
        next memory, without tanh).
      attention_mlp_layers: layers of width M of the MLP after attention, ReLU between them.
      key_size: size of a head's queries and keys; None or 0: head_size.
      treat_input_as_matrix: the input's last two axes are rows and features, and memories attend to each row. An
        argument of Sonnet 1's call; here of the constructor, since an unroll passes only inputs and state.
      output_gate: Paper: eqs. 4-6 and 8, a third gate, output h = sigmoid(o) tanh(memory) instead of the memory, and
        gates from h instead of tanh(memory). The state is then an `OutputGatedState`, whose first h is tanh of the
        initial memory. Public code (Sonnet 1): none; "not used in practice" by the authors. Default False.
      name: name of the module.

    Raises:
      ValueError: a size is not a positive integer, gate_style is unknown, or output_gate is True without gates.
    """

    def __init__(
        self,
        mem_slots,
        head_size,
        num_heads=1,
        num_blocks=1,
        forget_bias=1.0,
        input_bias=0.0,
        gate_style="unit",
        attention_mlp_layers=2,
        key_size=None,
        treat_input_as_matrix=False,
        output_gate=False,
        name=None,
    ):
        super().__init__(name=name)
        key_size = head_size if key_size is None or (is_integer(key_size, 0) and key_size == 0) else key_size
        sizes = {
            "mem_slots": mem_slots,
            "head_size": head_size,
            "num_heads": num_heads,
            "num_blocks": num_blocks,
            "attention_mlp_layers": attention_mlp_layers,
            "key_size": key_size,
        }
        for argument, size in sizes.items():
            if not is_integer(size):
                raise ValueError(f"{argument}: {size!r}, must be an integer of at least 1")
        check_choice("gate_style", gate_style, GATE_STYLES)
        if output_gate and gate_style is None:
            raise ValueError("output_gate: True, must be False if gate_style is None")
        self.mem_slots = mem_slots
        self.head_size = head_size
        self.num_heads = num_heads
        self.num_blocks = num_blocks
        self.forget_bias = forget_bias
        self.input_bias = input_bias
        self.gate_style = gate_style
        self.attention_mlp_layers = attention_mlp_layers
        self.key_size = key_size
        self.treat_input_as_matrix = treat_input_as_matrix
        self.output_gate = output_gate
        self.mem_size = head_size * num_heads

        self.input_linear = Linear(self.mem_size, name="input")
        self.blocks = [_Block(num_heads, key_size, head_size, name=f"block_{i}") for i in range(num_blocks)]
        self.mlp = [Linear(self.mem_size, name=f"mlp_{i}") for i in range(attention_mlp_layers)]
        self._num_gates = 0 if gate_style is None else 3 if output_gate else 2
        if self._num_gates:
            gate_size = self._num_gates * (self.mem_size if gate_style == "unit" else 1)
            self.gate_input = Linear(gate_size, name="gate_input")
            self.gate_memory = Linear(gate_size, name="gate_memory")

    @property
    def input_layout(self):
        return "n, features" if self.treat_input_as_matrix else "features"

    @property
    def output_size(self):
        return self.mem_slots * self.mem_size

    @property
    def state_size(self):
        shape = tf.TensorShape([self.mem_slots, self.mem_size])
        return OutputGatedState(shape, shape) if self.output_gate else RelationalMemoryState(shape)

    def initial_state(self, batch_size, dtype=tf.float32):
        """Identity matrix, its columns cut or zero-padded to M, for each of `batch_size` elements."""
        memory = tf.eye(self.mem_slots, self.mem_size, batch_shape=[batch_size], dtype=dtype)
        return OutputGatedState(memory, tf.tanh(memory)) if self.output_gate else RelationalMemoryState(memory)

    @snt.once
    def _initialize(self, num_features, num_rows, dtype):
        self.input_linear.initialize(num_features, dtype)
        for block in self.blocks:
            block.initialize(self.mem_size, dtype)
        for layer in self.mlp:
            layer.initialize(self.mem_size, dtype)
        if self._num_gates:
            self.gate_input.initialize(num_rows * self.mem_size, dtype)
            self.gate_memory.initialize(self.mem_size, dtype)

    def project_inputs(self, inputs):
        """Compute the input's rows, their queries, keys and values in the first block, and their part of the gates.

        Args:
          inputs: [..., features], or [..., n, features] with `treat_input_as_matrix`; any leading dimensions.

        Raises:
          ValueError: the size of features (or n) is unknown.
        """
        inputs = tf.convert_to_tensor(inputs)
        needed = 2 if self.treat_input_as_matrix else 1
        if inputs.shape.rank is None or inputs.shape.rank <= needed or None in inputs.shape[-needed:]:
            axes = "[..., n, features]" if self.treat_input_as_matrix else "[..., features]"
            raise ValueError(
                f"inputs: shape {inputs.shape}, must be {axes} of static sizes after at least one batch axis"
            )
        if not self.treat_input_as_matrix:
            inputs = inputs[..., tf.newaxis, :]
        num_rows = inputs.shape[-2]
        self._initialize(inputs.shape[-1], num_rows, inputs.dtype)

        rows = self.input_linear(inputs)
        return ProjectedInput(
            rows=rows if self.num_blocks > 1 else (),
            qkv=self.blocks[0].qkv(rows),
            gates=self._project_gates(rows) if self._num_gates else (),
        )

    def _project_gates(self, rows):
        """State-independent part of the gates: the input's contribution and every bias."""
        flat = tf.reshape(rows, tf.concat([tf.shape(rows)[:-2], [rows.shape[-2] * self.mem_size]], 0))
        width = self.gate_memory.output_size // self._num_gates
        constants = [self.input_bias, self.forget_bias, 0.0][: self._num_gates]
        bias = tf.cast(self.gate_memory.b, flat.dtype) + tf.repeat(tf.constant(constants, flat.dtype), width)
        return self.gate_input(flat) + bias

    def step(self, projected, state):
        """Compute one step: `(output [B, mem_slots * M], next_state)`."""
        self._check(projected, state)
        dtype = projected.qkv.dtype
        memory = tf.cast(state.memory, dtype)
        candidate = self._attend_over_memory(memory, projected)
        if self._num_gates == 0:
            next_memory = output = candidate
        else:
            hidden = tf.cast(state.hidden, dtype) if self.output_gate else tf.tanh(memory)
            gates = matmul(hidden, self.gate_memory.w) + projected.gates[:, tf.newaxis]
            input_gate, forget_gate, *output_gate = tf.split(tf.sigmoid(gates), self._num_gates, -1)
            next_memory = input_gate * tf.tanh(candidate) + forget_gate * memory  # eq. 7
            output = output_gate[0] * tf.tanh(next_memory) if self.output_gate else next_memory  # eq. 8
        next_state = (next_memory, output) if self.output_gate else (next_memory,)
        next_state = [tf.cast(new, old.dtype) for new, old in zip(next_state, state, strict=True)]
        return tf.reshape(output, [-1, self.output_size]), type(self.state_size)(*next_state)

    def _attend_over_memory(self, memory, projected):
        """Apply all blocks: the memory's rows attend to themselves and to the input's rows.

        Memory and input rows are separate matrices [B r, ...]. In the last block the input's rows serve only as keys
        and values, because their own result would be dropped.
        """
        num_rows = projected.qkv.shape[-2]
        memory = tf.reshape(memory, [-1, self.mem_size])
        inputs_qkv = tf.reshape(projected.qkv, [-1, projected.qkv.shape[-1]])
        inputs = tf.reshape(projected.rows, [-1, self.mem_size]) if self.num_blocks > 1 else None
        for index, block in enumerate(self.blocks):
            memory_queries, *memory_keys_values = block.split_heads(block.qkv(memory), self.mem_slots)
            input_queries, *input_keys_values = block.split_heads(inputs_qkv, num_rows)
            keys_values = [memory_keys_values, input_keys_values]
            memory = self._update(block, memory, attend(memory_queries, keys_values))
            if index + 1 < self.num_blocks:
                inputs = self._update(block, inputs, attend(input_queries, keys_values))
                inputs_qkv = self.blocks[index + 1].qkv(inputs)
        return tf.reshape(memory, [-1, self.mem_slots, self.mem_size])

    def _update(self, block, rows, attended):
        """Compute LN(rows + attended), then LN(rows + MLP(rows)); rows [B r, M], attended [B, H, r, head_size]."""
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), [-1, self.mem_size])
        rows = block.attention_norm(rows + attended)
        hidden = rows
        for index, layer in enumerate(self.mlp):
            hidden = layer(tf.nn.relu(hidden) if index else hidden)
        return block.mlp_norm(hidden + rows)

    def _check(self, projected, state):
        expected = [self.mem_slots, self.mem_size]
        for name, tensor in zip(state._fields, state, strict=True):
            if tensor.shape.rank != 3 or not tensor.shape[1:].is_compatible_with(expected):
                raise ValueError(f"state.{name}: shape {tensor.shape}, must be [B, {expected[0]}, {expected[1]}]")
        if projected.qkv.shape.rank != 3:
            axes = "[B, n, features]" if self.treat_input_as_matrix else "[B, features]"
            leading = projected.qkv.shape[:-2]
            raise ValueError(f"inputs: leading dimensions {leading} in one step, must be {axes}")
