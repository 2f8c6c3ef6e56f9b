"""Data parallel updates: several devices, on this machine or on several, share each batch (tf.distribute).

Every replica computes its share of the loss: of a score (sum, count), its sum over the count of the whole batch; of a
mean, its mean over the number of replicas. So the sum of the gradients is the gradient of the whole batch.
"""

import contextlib
import functools

import tensorflow as tf


def replica_strategy(replicas):
    """Return the strategy of an experiment: the current one, a `MirroredStrategy` over GPUs or CPUs, or None for one.

    Args:
      replicas: number of devices.

    Raises:
      ValueError: there are fewer devices, or the current strategy has another number of replicas.
    """
    if tf.distribute.has_strategy():
        found = tf.distribute.get_strategy()
        if found.num_replicas_in_sync != replicas:
            raise ValueError(f"replicas: {replicas}, must be the devices of all workers ({found.num_replicas_in_sync})")
        return found
    if replicas == 1:
        return None
    for kind in ("GPU", "CPU"):
        devices = tf.config.list_logical_devices(kind)
        if len(devices) >= replicas:
            return _mirrored(*(device.name for device in devices[:replicas]))
    found = len(tf.config.list_logical_devices("GPU"))
    raise ValueError(f"replicas: {replicas}, must be at most the number of GPUs ({found})")


@functools.cache  # the reductions of two strategies over the same devices have the same keys
def _mirrored(*devices):
    return tf.distribute.MirroredStrategy(devices)


def scope(strategy):
    """Context in which variables are made for a strategy; none for None."""
    return contextlib.nullcontext() if strategy is None else strategy.scope()


def share(tensor, axis, replica, replicas):
    """Return a replica's part of a tensor along an axis that `replicas` divides; the tensor itself if it is None."""
    if axis is None:
        return tensor
    size = tensor.shape.as_list()
    size[axis] //= replicas
    begin = [0] * len(size)
    begin[axis] = replica * size[axis]
    return tf.slice(tensor, begin, size)


def replicated_gradient(loss_and_rest, variables):
    """Gradient of the whole batch, in a replica's context.

    Args:
      loss_and_rest: function without arguments: this replica's share of the loss, and anything else.
      variables: of TensorFlow.

    Returns:
      `(gradients, rest)`: None for a variable that the loss does not depend on.
    """
    with tf.GradientTape() as tape:
        loss, rest = loss_and_rest()
    gradients = tape.gradient(loss, variables)
    known = [tf.convert_to_tensor(gradient) for gradient in gradients if gradient is not None]
    summed = iter(tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, known))
    return [None if gradient is None else next(summed) for gradient in gradients], rest


def score_share(score, summed, replicas):
    """Return a replica's share of a score, a scalar or (sum, count), such that the shares' sum is that of the batch.

    Args:
      score: of this replica's part of the batch.
      summed: True for a scalar that is a sum over the batch; else it is a mean.
      replicas: their number.
    """
    if isinstance(score, tuple):
        count = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, score[1])
        return score[0] / tf.maximum(count, 1e-9)
    return score if summed else score / replicas


def gathered(nest):
    """Join the replicas' tensors [B / replicas, ...] of a nest along their first axis, in a replica's context."""
    flat = tf.nest.flatten(nest)
    if not flat:
        return nest
    return tf.nest.pack_sequence_as(nest, tf.distribute.get_replica_context().all_gather(flat, axis=0))
