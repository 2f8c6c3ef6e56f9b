"""Memory access of the differentiable neural computer (Graves et al. 2016, Methods): interface, write, read.

    interface ξ_t       one linear map of the controller's output (public code: ten maps, here joined)
    write weighting     w_t = g^w (g^a a_t + (1 − g^a) C(M_{t-1}, k^w, β^w))
    memory              M_t = M_{t-1} ∘ Π_i (1 − w^i_t e^i_tᵀ) + Σ_i w^i_t v^i_tᵀ
    read weighting      r^i_t = π^i[content] C(M_t, k^i, β^i) + Σ_h (π^i[f h] f^{i,h}_t + π^i[b h] b^{i,h}_t)
    read vectors        r_t M_t

Shapes: B batch, N slots, W word size, R read heads, H write heads. Faithful to google-deepmind/dnc, access.py.
"""

from typing import NamedTuple

import tensorflow as tf

from tfmem.cores.base import Linear, RNNCore, variable_dtype
from tfmem.cores.dnc import addressing
from tfmem.validation import positive_int


class AccessState(NamedTuple):
    """memory [B, N, W], read_weights [B, R, N], write_weights [B, H, N], linkage, usage [B, N]."""

    memory: tf.Tensor
    read_weights: tf.Tensor
    write_weights: tf.Tensor
    linkage: addressing.TemporalLinkageState
    usage: tf.Tensor


class Interface(NamedTuple):
    """Interface vectors from the controller. Strengths are raw; gates and erase vectors are in [0, 1]."""

    write_vectors: tf.Tensor  # [B, H, W]
    erase_vectors: tf.Tensor  # [B, H, W]
    free_gate: tf.Tensor  # [B, R]
    allocation_gate: tf.Tensor  # [B, H]
    write_gate: tf.Tensor  # [B, H]
    read_mode: tf.Tensor  # [B, R, 2 H + 1]: backward for each write head, forward for each, content
    write_keys: tf.Tensor  # [B, H, W]
    write_strengths: tf.Tensor  # [B, H]
    read_keys: tf.Tensor  # [B, R, W]
    read_strengths: tf.Tensor  # [B, R]


def erase_and_write(memory, address, reset_weights, values):
    """Compute the memory [B, N, W] after all heads erase, then all heads add.

    Args:
      memory: [B, N, W].
      address: [B, H, N], the write weights.
      reset_weights: [B, H, W] in [0, 1], fractions of the words to erase.
      values: [B, H, W], words to add.
    """
    kept = addressing.product_over_heads(1 - address[..., tf.newaxis] * reset_weights[:, :, tf.newaxis])
    return memory * kept + tf.matmul(address, values, transpose_a=True)


class MemoryAccess(RNNCore):
    """External memory with content, allocation and temporal-link addressing, driven by interface vectors.

    Maps inputs [B, F] and an `AccessState` to (read vectors [B, R, W], next state). Computes in at least float32.

    Args:
      memory_size: number of slots N.
      word_size: size W of a slot.
      num_reads: number of read heads R.
      num_writes: number of write heads H.

    Raises:
      ValueError: an argument is not a positive integer.
    """

    input_layout = "features"

    def __init__(self, memory_size=128, word_size=20, num_reads=1, num_writes=1, name="memory_access"):
        super().__init__(name=name)
        self.memory_size = positive_int("memory_size", memory_size)
        self.word_size = positive_int("word_size", word_size)
        self.num_reads = positive_int("num_reads", num_reads)
        self.num_writes = positive_int("num_writes", num_writes)
        # Public code: the same initialiser for every block, truncated normal of 1/sqrt(fan-in) and a zero bias.
        self.interface = Linear(sum(self.interface_sizes), name="interface")

    @property
    def interface_sizes(self):
        """Number of outputs of each block as an `Interface`, in the order of the columns of `interface.w`."""
        r, h, w = self.num_reads, self.num_writes, self.word_size
        return Interface(h * w, h * w, r, h, h, r * (1 + 2 * h), h * w, h, r * w, r)

    @property
    def output_size(self):
        return tf.TensorShape([self.num_reads, self.word_size])

    @property
    def state_size(self):
        n, r, h = self.memory_size, self.num_reads, self.num_writes
        return AccessState(
            memory=tf.TensorShape([n, self.word_size]),
            read_weights=tf.TensorShape([r, n]),
            write_weights=tf.TensorShape([h, n]),
            linkage=addressing.TemporalLinkageState(tf.TensorShape([h, n, n]), tf.TensorShape([h, n])),
            usage=tf.TensorShape([n]),
        )

    def initial_state(self, batch_size, dtype=tf.float32):
        """State of an empty, unused memory: zeros everywhere."""
        return tf.nest.map_structure(lambda shape: tf.zeros([batch_size, *shape], dtype), self.state_size)

    def project_inputs(self, inputs):
        """Map inputs [..., F] to the raw interface vector [..., sum(interface_sizes)]."""
        return self.interface(inputs)

    def read_interface(self, projected):
        """Split the raw interface vector [B, sum(interface_sizes)] into an `Interface`."""
        r, h = self.num_reads, self.num_writes
        x = Interface(*tf.split(projected, list(self.interface_sizes), axis=-1))

        def heads(x, num_heads):
            return tf.reshape(x, [-1, num_heads, x.shape[-1] // num_heads])

        return Interface(
            write_vectors=heads(x.write_vectors, h),
            erase_vectors=heads(tf.sigmoid(x.erase_vectors), h),
            free_gate=tf.sigmoid(x.free_gate),
            allocation_gate=tf.sigmoid(x.allocation_gate),
            write_gate=tf.sigmoid(x.write_gate),
            read_mode=tf.nn.softmax(heads(x.read_mode, r)),
            write_keys=heads(x.write_keys, h),
            write_strengths=x.write_strengths,
            read_keys=heads(x.read_keys, r),
            read_strengths=x.read_strengths,
        )

    def step(self, projected, state):
        """Write, then read: (read vectors [B, R, W] in the dtype of `projected`, next `AccessState`)."""
        dtypes = tf.nest.map_structure(lambda s: s.dtype, state)
        precise = variable_dtype(projected.dtype)
        interface = self.read_interface(tf.cast(projected, precise))
        memory, read_weights, write_weights, linkage, usage = tf.nest.map_structure(
            lambda s: tf.cast(s, precise), state
        )

        usage = addressing.update_usage(write_weights, interface.free_gate, read_weights, usage)
        write_weights = self._write_weights(interface, memory, usage)
        memory = erase_and_write(memory, write_weights, interface.erase_vectors, interface.write_vectors)
        forward, backward, linkage = addressing.linked_reads(write_weights, read_weights, linkage)
        read_weights = self._read_weights(interface, memory, forward, backward)
        read_vectors = tf.matmul(read_weights, memory)

        next_state = AccessState(memory, read_weights, write_weights, linkage, usage)
        next_state = tf.nest.map_structure(tf.cast, next_state, dtypes)
        return tf.cast(read_vectors, projected.dtype), next_state

    def _write_weights(self, interface, memory, usage):
        content = addressing.cosine_weights(memory, interface.write_keys, interface.write_strengths)
        allocation = addressing.write_allocation_weights(usage, interface.allocation_gate * interface.write_gate)
        allocation_gate = interface.allocation_gate[:, :, tf.newaxis]
        write_gate = interface.write_gate[:, :, tf.newaxis]
        return write_gate * (allocation_gate * allocation + (1 - allocation_gate) * content)

    def _read_weights(self, interface, memory, forward, backward):
        h = self.num_writes
        backward_mode, forward_mode, content_mode = tf.split(interface.read_mode[..., tf.newaxis], [h, h, 1], axis=2)
        content = addressing.cosine_weights(memory, interface.read_keys, interface.read_strengths)
        directional = tf.reduce_sum(backward_mode * backward + forward_mode * forward, axis=2)
        return content_mode[:, :, 0] * content + directional
