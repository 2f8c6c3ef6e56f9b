"""Metalearned memory over time: writes of low rank in chunks, and a gradient of its own.

A write of either rule is M^l <- M^l - sum_i delta_i^l (z_i^{l-1})^T, of rank H. Within a chunk of C steps the matrices
stay as they were at its start, and the factors of the writes are kept:

    M_t x = M_chunk x - sum_{s <= t in chunk} delta_s (z_s . x)

The chunk's end folds the factors into the matrices. The gradient treats the adjoint N = dL/dM in the same way: a
product M_t x whose gradient is g adds g x^T to N, and a write gets d delta = -N z and dz = -N^T delta. So N, too, is
matrices of a chunk and factors. Kept for the gradient are the activations, and the matrices at the starts of chunks
alone. Gradients of the controller's weights are products over all steps at once.

Layers are counted from 0 here: layer l maps z^l to z^{l+1}, and delta^l belongs to its output.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.axes import merge_leading
from tfmem.cores.lstm import keras_lstm_update

# Rows of a chunk's factors, C H. Tables of a tenth of the matrices' width cost about what folding the matrices saves.
FACTOR_ROWS = 12


class Weights(NamedTuple):
    """Weights of the controller and of the write; the feedback's are None for MNM-g."""

    recurrent_kernel: tf.Tensor  # [units + word_size, 4 units]
    interaction_kernel: tf.Tensor  # [units, n word_size]
    interaction_bias: tf.Tensor
    rate_kernel: tf.Tensor  # [word_size, rates]
    rate_bias: tf.Tensor
    feedback_kernel: tf.Tensor | None = None  # [word_size, sum of the layers' out]
    feedback_bias: tf.Tensor | None = None


class LowRank(NamedTuple):
    """The matrix M - left^T right of one layer for each sequence."""

    transposed: tf.Tensor  # M^T: [..., in, out]
    left: tf.Tensor  # [..., rank, out]
    right: tf.Tensor  # [..., rank, in]

    def product(self, x, mask=None):
        """Rows x [..., n, in] times the matrix: [..., n, out]. `mask` [n, rank] selects the factors for each row."""
        inner = tf.matmul(x, self.right, transpose_b=True)
        inner = inner if mask is None else inner * mask
        return tf.matmul(x, self.transposed) - tf.matmul(inner, self.left)

    def folded(self):
        """M^T with the factors."""
        return self.transposed - tf.matmul(self.right, self.left, transpose_a=True)


class Scanned(NamedTuple):
    hidden: tf.Tensor  # [T, B, units] after each step
    vectors: tf.Tensor  # Eq. 1: [T, B, n, word_size]
    read_out: tf.Tensor  # [T, B, word_size] after each step
    cell: tf.Tensor  # [B, units] after the last step
    memory: tuple  # M^l [B, out, in] after the last step
    # `LowRank` [K, B, ...] of each layer: K chunks of C steps, the last of which ends with the last step. After the
    # step in slot c the memory is that of the first (c + 1) H factors. Factors in front of the first step are zeros.
    chunks: tuple


def _gather(arrays, t):
    return [a[t] for a in arrays]


def _write(arrays, t, tensors):
    return [a.write(t, x) for a, x in zip(arrays, tensors, strict=True)]


def _stack(arrays):
    return [a.stack() for a in arrays]


def _packed(tensors):
    """Tensors [B, ...] as one [B, n]."""
    return tf.concat([_flat(x) for x in tensors], 1)


def _flat(x):
    return tf.reshape(x, [-1, x.shape[1:].num_elements()])


def _unpacked(packed, shapes):
    """The tensors [B, ...] of `_packed` from their shapes without the batch."""
    sizes = [tf.TensorShape(shape).num_elements() for shape in shapes]
    parts = tf.split(packed, sizes, axis=1)
    return [tf.reshape(part, [-1, *shape]) for part, shape in zip(parts, shapes, strict=True)]


def _inner(x, y):
    """Inner products of rows x [B, n, .] and y [B, m, .]: [B, n, m]."""
    if x.shape[1] == y.shape[1] == 1:
        return tf.reduce_sum(x * y, -1, keepdims=True)
    return tf.matmul(x, y, transpose_b=True)


def _combined(weights, rows):
    """Sums of rows [B, m, .] with weights [B, n, m]: [B, n, .]."""
    return weights * rows if rows.shape[1] == 1 else tf.matmul(weights, rows)


def _product_of_sequences(x, d):
    """Sum over steps and batch of x^T d: the gradient of a linear map's kernel."""
    return tf.matmul(merge_leading(x, x.shape.rank - 1), merge_leading(d, d.shape.rank - 1), transpose_a=True)


class AtSlot(NamedTuple):
    """Of one step and layer: delta^l, and the gradients for delta^l and z^l by what follows the chunk."""

    left: tf.Tensor  # [B, H, out]
    d_left: tf.Tensor
    d_right: tf.Tensor  # [B, H, in]


class LayerOfChunk:
    """One layer's memory in a chunk for the gradient.

    A product whose input is q and whose gradient is p is a row [p, p . left, q, q . right] of a table [B, n, .], the
    last step's in front.

    Args:
      memory: `LowRank` with the factors of the whole chunk.
      d_left, d_right: gradients for them by what follows the chunk.
      heads: H.
      products: True if `product` is needed.
    """

    def __init__(self, memory, d_left, d_right, heads, products):
        self.left, self.right, self.heads = memory.left, memory.right, heads
        self.rank, self.out, self.in_ = self.left.shape[1], self.left.shape[2], self.right.shape[2]
        # Products with a matrix and its factors are one; not transposed, XLA computes those of few rows faster.
        wide = tf.concat([memory.transposed, self.left], 1)
        self.wide_transposed = tf.linalg.matrix_transpose(wide)  # [B, out, in + rank]
        if products:
            self.wide = tf.concat([memory.transposed, tf.linalg.matrix_transpose(self.right)], 2)  # [B, in, out + rank]
        slots = tf.concat([self.left, d_left, d_right], 2)
        self.slots = tf.reshape(slots, [-1, self.rank // heads, heads, slots.shape[2]])
        self.table_width = self.out + self.in_ + 2 * self.rank

    def at(self, slot):
        return AtSlot(*tf.split(self.slots[:, slot], [self.out, self.out, self.in_], axis=2))

    def product(self, x, mask):
        """Rows x [B, n, in] times the matrix: [B, n, out], and their inner products with `right`."""
        products, inner = tf.split(tf.matmul(x, self.wide), [self.out, self.rank], axis=2)
        return products - tf.matmul(inner * mask, self.left), inner

    def transposed_product(self, g, mask):
        """Rows g [B, n, out] times the transposed matrix: [B, n, in], and their inner products with `left`."""
        products, inner = tf.split(tf.matmul(g, self.wide_transposed), [self.in_, self.rank], axis=2)
        return products - tf.matmul(inner * mask, self.right), inner

    def pushed(self, table, p, p_left, q, q_right):
        rows = tf.concat([p, p_left, q, q_right], 2)
        return tf.concat([rows, table[:, : -rows.shape[1]]], 1)

    def later(self, table, slot):
        """Shares of later products in the gradients of the factors of a step's write: [B, H, out], [B, H, in]."""

        def of_slot(start):
            shape = tf.shape(table)
            weights = tf.slice(table, [0, 0, start + slot * self.heads], [shape[0], shape[1], self.heads])
            return tf.linalg.matrix_transpose(weights)

        # Joined after their transposition: XLA multiplies slowly if the first matrix is transposed in the product.
        weights = tf.concat([of_slot(self.table_width - self.rank), of_slot(self.out)], 1)
        sums = tf.matmul(weights, table)
        start = self.out + self.rank
        return sums[:, : self.heads, : self.out], sums[:, self.heads :, start : start + self.in_]

    def adjoint(self, table):
        """Sum of q^T p over a table: the gradient for the transposed matrix."""
        start = self.out + self.rank
        return tf.matmul(table[:, :, start : start + self.in_], table[:, :, : self.out], transpose_a=True)


class MetalearnedScan:
    """All steps of a `MetalearnedMemory` of one configuration.

    Args:
      local: True for MNM-p (Eq. 4), False for MNM-g (Eq. 3).
      num_heads: H.
      shapes: [out, in] of each layer.
      linear_output: True if the memory's last layer has no tanh.
      read_first: True if a step reads the memory before its write.
      error_scale: factor of the squared error of MNM-g.
      feedback: activation of q^l, a function.
    """

    def __init__(self, local, num_heads, shapes, linear_output, read_first, error_scale, feedback):
        self.local, self.heads, self.read_first = local, num_heads, read_first
        self.outs, self.ins = [out for out, _ in shapes], [in_ for _, in_ in shapes]
        self.layers, self.last = range(len(shapes)), len(shapes) - 1
        self.linear_output, self.feedback = linear_output, feedback
        self.factor = 1.0 / num_heads if local else 2.0 * error_scale / num_heads
        # Write and read pass the layers together, unless the write of a layer needs the layers above.
        self.together = local or read_first

    def __call__(self, projected, state, weights, valid=None, keep_chunks=False):
        """Run the controller and its memory.

        Args:
          projected: the inputs' share of the LSTM's gates, [T, B, 4 units].
          state: a `MetalearnedState`.
          weights: `Weights` in the dtype of `projected`.
          valid: valid steps, bool [T, B] or [T, 1]; other steps leave the state unchanged. None: all.
          keep_chunks: return the memory of all steps.

        Returns:
          `Scanned`; its `chunks` are () unless `keep_chunks`.
        """
        num_layers, heads = len(self.layers), self.heads
        steps, batch = tf.shape(projected)[0], tf.shape(projected)[1]
        static_steps, static_batch, dtype = projected.shape[0], projected.shape[1], projected.dtype
        size = max(1, FACTOR_ROWS // heads)
        size = size if static_steps is None else min(size, static_steps)
        num_chunks = (steps + size - 1) // size
        static_chunks = None if static_steps is None else -(-static_steps // size)
        offset = num_chunks * size - steps  # free slots at the start of the first chunk
        units, word = state.hidden.shape[-1], self.outs[-1]
        stored_shapes = self.stored_shapes(units, weights)

        def arrays(length, shapes):
            return [
                tf.TensorArray(dtype, length, element_shape=[static_batch, *shape], clear_after_read=False)
                for shape in shapes
            ]

        def table(rows, width):
            zeros = tf.zeros([batch, rows, width], dtype)
            zeros.set_shape([static_batch, rows, width])
            return zeros

        def inner_loop(k, body, variables):
            """The steps of chunk k."""
            start, end = tf.maximum(k * size - offset, 0), (k + 1) * size - offset
            return tf.while_loop(
                lambda i, *_: i < end - start,
                lambda i, *v: (i + 1, *body(i, start, end, *v)),
                (0, *variables),
                maximum_iterations=size,
            )[1:]

        def outer_loop(body, variables):
            return tf.while_loop(
                lambda k, *_: k < num_chunks,
                lambda k, *v: (k + 1, *body(k, *v)),
                (0, *variables),
                maximum_iterations=static_chunks,
            )[1:]

        @tf.custom_gradient
        def run(*flat):
            projected, hidden, cell, read_out = flat[:4]
            memory, weights = flat[4 : 4 + num_layers], Weights(*flat[4 + num_layers :])

            def chunk(k, hidden, cell, read_out, memory, kept, kept_chunks):
                def step(i, start, end, hidden, cell, read_out, left, right, kept):
                    t = start + i
                    now = None if valid is None else valid[t]
                    layers = list(map(LowRank, memory, left, right))
                    state, layers, *stored = self.step(layers, projected[t], hidden, cell, read_out, weights, now)
                    left, right = [m.left for m in layers], [m.right for m in layers]
                    return *state, left, right, _write(kept, t, [state[0], stored[0], state[2], _packed(stored[1])])

                left, right = ([table(size * heads, n) for n in sizes] for sizes in (self.outs, self.ins))
                hidden, cell, read_out, left, right, kept = inner_loop(
                    k, step, (hidden, cell, read_out, left, right, kept)
                )
                kept_chunks = _write(kept_chunks, k, [*memory, *left, *right])
                memory = [m.folded() for m in map(LowRank, memory, left, right)]
                return hidden, cell, read_out, memory, kept, kept_chunks

            length = sum(tf.TensorShape(shape).num_elements() for shape in stored_shapes)
            count = weights.interaction_kernel.shape[1] // word
            kept = arrays(steps, [[units], [count, word], [word], [length]])
            kept_chunks = arrays(
                num_chunks,
                [m.shape[1:] for m in memory] + [[size * heads, n] for n in (*self.outs, *self.ins)],
            )
            _, last_cell, _, last_memory, kept, kept_chunks = outer_loop(
                chunk, (hidden, cell, read_out, list(memory), kept, kept_chunks)
            )
            # As tensors: a SavedModel cannot keep a gradient function that captures lists.
            (hiddens, vectors, read_outs, stored), kept_chunks = _stack(kept), _stack(kept_chunks)
            outputs = [hiddens, vectors, read_outs, last_cell, *last_memory, *(kept_chunks if keep_chunks else ())]

            def gradient(*upstream):
                d_hiddens, d_vectors, d_read_outs, d_cell = upstream[:4]
                d_memory = list(upstream[4 : 4 + num_layers])
                d_chunks = upstream[4 + num_layers :]
                before = [
                    tf.concat([first[tf.newaxis], x[:-1]], 0) for first, x in ((hidden, hiddens), (read_out, read_outs))
                ]

                def by_kind(tensors, k):
                    return [_gather(tensors[i * num_layers : (i + 1) * num_layers], k) for i in range(3)]

                def chunk(step, d_hidden, d_cell, d_read_out, d_memory, d_kept):
                    k = num_chunks - 1 - step
                    layers = list(map(LowRank, *by_kind(kept_chunks, k)))
                    d_left = [-tf.matmul(m.right, n) for m, n in zip(layers, d_memory, strict=True)]
                    d_right = [-tf.matmul(m.left, n, transpose_b=True) for m, n in zip(layers, d_memory, strict=True)]
                    if keep_chunks:
                        from_outside = by_kind(d_chunks, k)
                        d_memory, d_left, d_right = (
                            [a + b for a, b in zip(*pair, strict=True)]
                            for pair in zip((d_memory, d_left, d_right), from_outside, strict=True)
                        )
                    layers = [
                        LayerOfChunk(*parts, heads, not self.local)
                        for parts in zip(layers, d_left, d_right, strict=True)
                    ]

                    def back(i, start, end, d_hidden, d_cell, d_read_out, tables, d_kept):
                        t = end - 1 - i
                        slot = t + offset - k * size
                        now = None if valid is None else valid[t]
                        d_state = (d_hidden + d_hiddens[t], d_cell, d_read_out + d_read_outs[t])
                        values = _unpacked(stored[t], stored_shapes)
                        d_state, tables, d_stored = self.step_gradient(
                            layers, slot, vectors[t], values, d_state, d_vectors[t], weights, now, tables
                        )
                        return *d_state, tables, _write(d_kept, t, d_stored)

                    tables = [
                        table(size * rows, layer.table_width)
                        for rows, layer in zip(self.rows_per_step(), layers, strict=True)
                    ]
                    d_hidden, d_cell, d_read_out, tables, d_kept = inner_loop(
                        k, back, (d_hidden, d_cell, d_read_out, tables, d_kept)
                    )
                    d_memory = [n + layer.adjoint(x) for n, layer, x in zip(d_memory, layers, tables, strict=True)]
                    return d_hidden, d_cell, d_read_out, d_memory, d_kept

                zeros = tf.zeros_like
                shapes = [[4 * units], [count * word], [weights.rate_kernel.shape[1]]]
                d_kept = arrays(steps, [*shapes, [heads, sum(self.outs)]] if self.local else shapes)
                d_hidden, d_cell, d_read_out, d_memory, d_kept = outer_loop(
                    chunk, (zeros(hidden), d_cell, zeros(read_out), d_memory, d_kept)
                )
                d_gates, d_interactions, *d_others = _stack(d_kept)
                values = vectors[:, :, 2 * heads : 3 * heads]
                d_weights = [_product_of_sequences(tf.concat(before, -1), d_gates)]
                for x, d in zip([hiddens, vectors[:, :, 3 * heads], values], [d_interactions, *d_others], strict=False):
                    d_weights += [_product_of_sequences(x, d), tf.reduce_sum(d, list(range(d.shape.rank - 1)))]
                return [d_gates, d_hidden, d_cell, d_read_out, *d_memory, *d_weights]

            return outputs, gradient

        given = [w for w in weights if w is not None]
        memory = [tf.linalg.matrix_transpose(m) for m in state.memory]
        flat = run(projected, state.hidden, state.cell, state.read_out, *memory, *given)
        hiddens, vectors, read_outs, last_cell = flat[:4]
        for x, width in ((hiddens, units), (read_outs, word)):
            x.set_shape([*projected.shape[:2], width])
        memory, chunks = flat[4 : 4 + num_layers], flat[4 + num_layers :]
        memory = tuple(tf.linalg.matrix_transpose(m) for m in memory)
        chunks = [chunks[i * num_layers : (i + 1) * num_layers] for i in range(3)]
        return Scanned(hiddens, vectors, read_outs, last_cell, memory, tuple(map(LowRank, *chunks)))

    # --- one step ---

    def squash(self, layer, a):
        return a if self.linear_output and layer == self.last else tf.tanh(a)

    def squash_gradient(self, layer, y, dy):
        return dy if self.linear_output and layer == self.last else tf.raw_ops.TanhGrad(y=y, dy=dy)

    def error_rates(self, rates):
        """Factors of the error in delta^l from rates [B, n]: a list of [B, 1, 1], of one for MNM-g."""
        return tf.unstack(rates[:, :, tf.newaxis, tf.newaxis] * self.factor, axis=1)

    def interactions(self, vectors):
        """Read keys, write keys, values, and the rate vector as one row."""
        return tf.split(vectors, [*[self.heads] * 3, 1], axis=1)

    def stored_shapes(self, units, weights):
        """Shapes of what `step` stores, without the batch."""
        shapes = [[4 * units], [units], [weights.rate_kernel.shape[1]]]
        if self.local:
            shapes.append([self.heads, sum(self.outs)])
        shapes += [[2 * self.heads, n] for n in self.outs]
        if not self.local:
            shapes += [[self.heads, n] for n in self.outs[:-1]]
        return shapes

    def rows_per_step(self):
        """Products of each layer's matrix in a step, those of the gradient of MNM-g's write included."""
        return [(2 if self.local or not layer else 3) * self.heads for layer in self.layers]

    def step(self, memory, projected, hidden, cell, read_out, weights, valid):
        """One step; `memory` is a list of `LowRank`.

        Returns:
          `((hidden, cell, read_out), memory, vectors, stored)`: after the step, Eq. 1, and what the gradient needs.
          The memory has the write's factors at the end of its tables and has lost the first.
        """
        heads = self.heads
        gates = projected + tf.matmul(tf.concat([hidden, read_out], 1), weights.recurrent_kernel)
        new_hidden, new_cell = keras_lstm_update(gates, cell)
        vectors = tf.tanh(tf.matmul(new_hidden, weights.interaction_kernel) + weights.interaction_bias)
        vectors = tf.reshape(vectors, [-1, weights.interaction_kernel.shape[1] // self.outs[-1], self.outs[-1]])
        read_keys, keys, values, rate_vector = self.interactions(vectors)
        rates = tf.sigmoid(tf.matmul(tf.squeeze(rate_vector, 1), weights.rate_kernel) + weights.rate_bias)
        written = rates if valid is None else tf.where(valid[:, tf.newaxis], rates, tf.zeros_like(rates))
        error_rates = self.error_rates(written)

        z, y, deltas, above, targets, first = [keys], [read_keys], [], [], [], None
        rights = []  # with z at the end
        if self.local:
            flat = tf.matmul(tf.reshape(values, [-1, values.shape[-1]]), weights.feedback_kernel)
            targets = [tf.reshape(flat + weights.feedback_bias, [-1, heads, flat.shape[-1]])]
            wanted = tf.split(self.feedback(targets[0]), self.outs, axis=-1)

        def product(layer, x):
            """Products with the memory before the write, and the inner products of x and z."""
            inner = tf.matmul(x, rights[layer], transpose_b=True)
            inner, own = tf.split(inner, [inner.shape[2] - heads, heads], axis=2)
            return tf.matmul(x, memory[layer].transposed) - tf.matmul(inner, memory[layer].left), own

        for layer in self.layers:
            rights.append(tf.concat([memory[layer].right, z[-1]], 1))
            if self.together or layer == 0:
                a, inner = product(layer, tf.concat([z[-1], y[-1]], 1))
                a, a_read = tf.split(a, 2, axis=1)
            else:
                a, _ = product(layer, z[-1])
            z.append(self.squash(layer, a))
            if self.local:
                deltas.append(error_rates[layer] * (z[-1] - wanted[layer]))
            if self.together:
                a_read = a_read if self.read_first else a_read - _combined(inner[:, heads:], deltas[-1])
                y.append(self.squash(layer, a_read))
            elif layer == 0:
                first = a_read, inner[:, heads:]
        if not self.local:
            deltas = [self.squash_gradient(self.last, z[-1], error_rates[0] * (z[-1] - values))]
            for layer in reversed(self.layers[1:]):
                _, left, right = memory[layer]
                inner = tf.matmul(deltas[0], left, transpose_b=True)
                above.insert(
                    0, tf.matmul(deltas[0], memory[layer].transposed, transpose_b=True) - tf.matmul(inner, right)
                )
                deltas.insert(0, self.squash_gradient(layer - 1, z[layer], above[0]))
        if not self.together:
            for layer in self.layers:
                a, inner = product(layer, y[-1]) if layer else first
                y.append(self.squash(layer, a - _combined(inner, deltas[layer])))
        memory = [
            LowRank(m.transposed, tf.concat([m.left[:, heads:], delta], 1), right[:, heads:])
            for m, delta, right in zip(memory, deltas, rights, strict=True)
        ]
        new = [new_hidden, new_cell, tf.reduce_mean(y[-1], axis=1)]
        if valid is not None:
            old = (hidden, cell, read_out)
            new = [tf.where(valid[:, tf.newaxis], n, o) for n, o in zip(new, old, strict=True)]
        rows = [tf.concat(pair, 1) for pair in zip(z[1:], y[1:], strict=True)]
        return new, memory, vectors, [gates, cell, rates, *targets, *rows, *above]

    def step_gradient(self, memory, slot, vectors, stored, d_state, d_vectors, weights, valid, tables):
        """The derivative of `step`.

        Args:
          memory: list of `LayerOfChunk`.
          slot: of the step in the chunk.
          vectors, stored: of `step`.
          d_state: gradients for (hidden, cell, read_out) after it.
          d_vectors: gradient from outside for the vectors.
          tables: of each layer, the products of later steps in the chunk (`LayerOfChunk.rows`).

        Returns:
          Gradients for the state before the step; `tables`; gradients for the gates, the vectors, the rates and the
          targets, all before their activations.
        """
        heads, layers, last = self.heads, self.layers, self.last
        gates, cell, rates, *rest = stored
        read_keys, keys, values, _ = self.interactions(vectors)
        if self.local:
            targets, rest = rest[0], rest[1:]
            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(targets)
                wanted = self.feedback(targets)
            wanted_parts = tf.split(wanted, self.outs, axis=-1)
        x, above = [tf.concat([keys, read_keys], 1), *rest[: last + 1]], rest[last + 1 :]
        z, y = zip((keys, read_keys), *(tf.split(rows, 2, axis=1) for rows in x[1:]), strict=True)
        written = rates if valid is None else tf.where(valid[:, tf.newaxis], rates, tf.zeros_like(rates))
        error_rates = self.error_rates(written)

        d_new = d_state
        if valid is not None:
            now = valid[:, tf.newaxis]
            d_new = [tf.where(now, d, tf.zeros_like(d)) for d in d_state]
            d_old = [tf.where(now, tf.zeros_like(d), d) for d in d_state]
        d_hidden, d_cell, d_read_out = d_new
        d_y = tf.tile(d_read_out[:, tf.newaxis] / heads, [1, heads, 1])

        at_slot = [layer.at(slot) for layer in memory]
        inner_x = [tf.matmul(rows, layer.right, transpose_b=True) for rows, layer in zip(x[:-1], memory, strict=True)]
        # Factors of the writes before this step, and of those that its read sees.
        rank = tf.range(memory[0].rank)
        before = tf.cast(rank < slot * heads, d_vectors.dtype)
        seen = before if self.read_first else tf.cast(rank < (slot + 1) * heads, d_vectors.dtype)
        both = before if self.read_first else tf.stack([before] * heads + [seen] * heads)
        d_z = [None] * (last + 2)
        d_rates, d_wanted, tables = [None] * rates.shape[1], [None] * (last + 1), list(tables)

        def write_gradient(layer, d_a_read):
            """Gradients for delta^l and z^l as factors of the write."""
            d_delta, d_right = memory[layer].later(tables[layer], slot)
            d_delta, d_right = at_slot[layer].d_left - d_delta, at_slot[layer].d_right - d_right
            if not self.read_first:  # the read of the same step
                d_delta -= _combined(_inner(z[layer], y[layer]), d_a_read)
                d_right -= _combined(_inner(at_slot[layer].left, d_a_read), y[layer])
            return d_delta, d_right

        def add(total, x):
            return x if total is None else total + x

        if self.local:
            for layer in reversed(layers):
                d_a_read = self.squash_gradient(layer, y[layer + 1], d_y)
                d_delta, d_right = write_gradient(layer, d_a_read)
                error = z[layer + 1] - wanted_parts[layer]
                d_error = error_rates[layer] * d_delta
                d_wanted[layer] = -d_error
                d_rates[layer] = tf.reduce_sum(d_delta * error, [1, 2]) * self.factor
                d_a = self.squash_gradient(layer, z[layer + 1], add(d_z[layer + 1], d_error))
                rows = tf.concat([d_a, d_a_read], 1)
                below, inner = memory[layer].transposed_product(rows, both)
                below, d_y = tf.split(below, 2, axis=1)
                d_z[layer] = below + d_right
                tables[layer] = memory[layer].pushed(tables[layer], rows, inner, x[layer], inner_x[layer])
        else:
            reads = [(None, None)] * (last + 1)
            if not self.together:
                for layer in reversed(layers):
                    d_a_read = self.squash_gradient(layer, y[layer + 1], d_y)
                    d_y, inner = memory[layer].transposed_product(d_a_read, seen)
                    reads[layer] = d_a_read, inner
            d_rights, pairs, d_above = [], [], None
            for layer in layers:
                d_delta, d_right = write_gradient(layer, reads[layer][0])
                d_rights.append(d_right)
                pairs.append(())
                if layer:
                    product, inner = memory[layer].product(d_above, before)
                    d_delta += product
                    delta = at_slot[layer].left
                    pairs[layer] = delta, tf.matmul(delta, memory[layer].left, transpose_b=True), d_above, inner
                if layer < last:
                    d_above = self.squash_gradient(layer, z[layer + 1], d_delta)
                    d_z[layer + 1] = -2.0 * d_delta * above[layer] * z[layer + 1]
            rate, error = error_rates[0], z[-1] - values
            d_error = self.squash_gradient(last, z[-1], d_delta)
            d_rates[0] = tf.reduce_sum(d_error * error, [1, 2]) * self.factor
            d_error *= rate
            d_z[-1] = d_error if self.linear_output else d_error - 2.0 * d_delta * rate * error * z[-1]
            for layer in reversed(layers):
                d_a = self.squash_gradient(layer, z[layer + 1], d_z[layer + 1])
                if self.together:
                    rows = tf.concat([d_a, self.squash_gradient(layer, y[layer + 1], d_y)], 1)
                    below, inner = memory[layer].transposed_product(rows, before)
                    below, d_y = tf.split(below, 2, axis=1)
                else:
                    below, inner = memory[layer].transposed_product(d_a, before)
                    rows, inner = (tf.concat(pair, 1) for pair in zip((d_a, inner), reads[layer], strict=True))
                d_z[layer] = add(d_z[layer], below + d_rights[layer])
                columns = rows, inner, x[layer], inner_x[layer]
                if layer:
                    columns = [tf.concat(pair, 1) for pair in zip(columns, pairs[layer], strict=True)]
                tables[layer] = memory[layer].pushed(tables[layer], *columns)

        d_rates = tf.stack(d_rates, 1)
        if valid is not None:
            d_rates = tf.where(valid[:, tf.newaxis], d_rates, tf.zeros_like(d_rates))
        d_rates = tf.raw_ops.SigmoidGrad(y=rates, dy=d_rates)
        d_stored = [d_rates]
        if self.local:
            d_targets = tape.gradient(wanted, targets, tf.concat(d_wanted, -1))
            d_stored.append(d_targets)
            flat = tf.matmul(merge_leading(d_targets, 2), weights.feedback_kernel, transpose_b=True)
            d_values = tf.reshape(flat, tf.shape(values))
        else:
            d_values = -d_error
        d_rate_vector = tf.matmul(d_rates, weights.rate_kernel, transpose_b=True)[:, tf.newaxis]
        d_vectors += tf.concat([d_y, d_z[0], d_values, d_rate_vector], 1)
        d_interactions = tf.raw_ops.TanhGrad(y=vectors, dy=d_vectors)
        d_interactions = tf.reshape(d_interactions, [-1, weights.interaction_kernel.shape[1]])
        d_hidden += tf.matmul(d_interactions, weights.interaction_kernel, transpose_b=True)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch([gates, cell])
            updated = keras_lstm_update(gates, cell)
        d_gates, d_cell = tape.gradient(updated, [gates, cell], [d_hidden, d_cell])
        d_before = tf.matmul(d_gates, weights.recurrent_kernel, transpose_b=True)
        d_state = [d_before[:, : d_hidden.shape[1]], d_cell, d_before[:, d_hidden.shape[1] :]]
        if valid is not None:
            d_state = [d + old for d, old in zip(d_state, d_old, strict=True)]
        return d_state, tables, [d_gates, d_interactions, *d_stored]


# --- Eq. 5 for all steps ---


def recall_windows(writes, recent, valid=None):
    """The writes of each step and of the valid steps before it.

    Args:
      writes: keys or values of all steps [T, B, H, word_size].
      recent: those of the last writes before the sequence, latest first [B, delay, H, word_size].
      valid: bool [T, B] or [T, 1]; None: all steps.

    Returns:
      Latest first, [T, B, delay + 1, H, word_size], and `recent` after the sequence. Windows of steps that are not
      valid have no meaning.
    """
    steps, delay = tf.shape(writes)[0], recent.shape[1]
    if valid is None:
        past = tf.concat([tf.transpose(tf.reverse(recent, [1]), [1, 0, 2, 3]), writes], 0)
        windows = tf.stack([past[delay - tau : delay - tau + steps] for tau in range(delay + 1)], 2)
        return windows, tf.transpose(tf.reverse(past[steps:], [0]), [1, 0, 2, 3])
    valid = tf.transpose(tf.broadcast_to(valid, tf.shape(writes)[:2]))
    # The valid steps' writes in front, in their order.
    order = tf.argsort(tf.range(steps) + tf.where(valid, 0, steps), axis=1)
    packed = tf.gather(tf.transpose(writes, [1, 0, 2, 3]), order, batch_dims=1)
    past = tf.concat([tf.reverse(recent, [1]), packed], 1)
    count = tf.cumsum(tf.cast(valid, tf.int32), 1)
    index = tf.maximum(count[..., tf.newaxis] + delay - 1 - tf.range(delay + 1), 0)
    windows = tf.transpose(tf.gather(past, index, batch_dims=1), [1, 0, 2, 3, 4])
    return windows, tf.gather(past, count[:, -1:] + delay - 1 - tf.range(delay), batch_dims=1)


def squared_errors(chunks, keys, values, linear_output):
    """Squared errors of the memory after each step for windows of keys and values: [T, B, delay + 1, H].

    Args:
      chunks: of `Scanned`.
      keys, values: [T, B, delay + 1, H, word_size].
      linear_output: as in `MetalearnedScan`.
    """
    steps, batch, (rows, heads, word) = tf.shape(keys)[0], tf.shape(keys)[1], keys.shape[2:]
    rank, num_chunks = chunks[0].left.shape[2], tf.shape(chunks[0].left)[0]
    size = rank // heads
    offset = num_chunks * size - steps

    def by_chunk(x):
        x = tf.pad(x, [[offset, 0], *[[0, 0]] * 4])
        x = tf.transpose(tf.reshape(x, [num_chunks, size, batch, rows * heads, word]), [0, 2, 1, 3, 4])
        return tf.reshape(x, [num_chunks, batch, size * rows * heads, word])

    slot_of_row = tf.range(size * rows * heads)[:, tf.newaxis] // (rows * heads)
    mask = tf.cast(tf.range(rank) // heads <= slot_of_row, keys.dtype)
    z = by_chunk(keys)
    for layer, memory in enumerate(chunks, start=1):
        z = memory.product(z, mask)
        z = z if linear_output and layer == len(chunks) else tf.tanh(z)
    errors = tf.reduce_sum((z - by_chunk(values)) ** 2, -1)
    errors = tf.transpose(tf.reshape(errors, [num_chunks, batch, size, rows * heads]), [0, 2, 1, 3])
    errors = tf.reshape(errors, [num_chunks * size, batch, rows, heads])[offset:]
    errors.set_shape(keys.shape[:-1])
    return errors
