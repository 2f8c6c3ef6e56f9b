"""Cross entropy over very many words, in chunks: all logits are never kept, and gradients compute them again.

The full softmax of 250 thousand words at 38,400 places (Santoro et al. 2018, A.4: 384 x 100) would be 38 GB of float32.
"""

import tensorflow as tf

from tfmem.validation import check_range


def chunked_softmax_cross_entropy(features, embedding, bias, targets, chunk):
    """-log softmax(E x + b) at the targets, in nats.

    Args:
      features: x, float32 [N, D]; products with the embeddings are in the dtype of `embedding`.
      embedding: E, [V, D], float32 or bfloat16.
      bias: b, float32 [V].
      targets: int32 [N].
      chunk: places whose logits exist at the same time; N need not be a multiple of it. Where N is at most `chunk`,
        they are kept for the gradient.

    Returns:
      float32 [N].

    Raises:
      ValueError: chunk is below 1.
    """
    check_range("chunk", chunk, 1)
    num_words, size = embedding.shape

    def logits(x, embedding, bias):
        return tf.cast(tf.matmul(tf.cast(x, embedding.dtype), embedding, transpose_b=True), tf.float32) + bias

    static, num = features.shape[0], tf.shape(features)[0]
    if static is not None and static <= chunk:  # they all fit: kept for the gradient
        return tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits(features, embedding, bias))
    num = static or num
    num_chunks = -(-num // chunk)
    padding = num_chunks * chunk - num
    x = tf.reshape(tf.pad(features, [[0, padding], [0, 0]]), [-1, chunk, size])
    y = tf.reshape(tf.pad(targets, [[0, padding]]), [-1, chunk])
    maximum = num_chunks if static is not None else None

    def loop(body, variables):
        return tf.while_loop(lambda i, *_: i < num_chunks, body, (0, *variables), maximum_iterations=maximum)[1:]

    @tf.custom_gradient
    def run(x, embedding, bias):
        def forward(i, losses):
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(y[i], logits(x[i], embedding, bias))
            return i + 1, losses.write(i, loss)

        (losses,) = loop(forward, [tf.TensorArray(tf.float32, num_chunks, element_shape=[chunk])])

        def gradient(upstream):
            def backward(i, d_x, d_embedding, d_bias):
                probabilities = tf.nn.softmax(logits(x[i], embedding, bias))
                d = (probabilities - tf.one_hot(y[i], num_words)) * upstream[i][:, tf.newaxis]
                low = tf.cast(d, embedding.dtype)
                d_x = d_x.write(i, tf.cast(tf.matmul(low, embedding), tf.float32))
                d_embedding += tf.cast(tf.matmul(low, tf.cast(x[i], low.dtype), transpose_a=True), tf.float32)
                return i + 1, d_x, d_embedding, d_bias + tf.reduce_sum(d, 0)

            zeros = [tf.zeros([num_words, size]), tf.zeros([num_words])]
            d_x, d_embedding, d_bias = loop(
                backward, [tf.TensorArray(tf.float32, num_chunks, element_shape=[chunk, size]), *zeros]
            )
            return d_x.stack(), tf.cast(d_embedding, embedding.dtype), d_bias

        return losses.stack(), gradient

    losses = tf.reshape(run(x, embedding, bias), [-1])[:num]
    losses.set_shape([static])
    return losses
