"""The metalearned memory in float64 numpy, one sequence at a time; Eq. 3's gradient by the complex step."""

import numpy as np

from tests.references.lstm import lstm, sigmoid


def activations(memory, key, output_activation):
    z = [key]
    for layer, weights in enumerate(memory):
        a = weights @ z[-1]
        z.append(a if layer == len(memory) - 1 and output_activation == "linear" else np.tanh(a))
    return z


def error(memory, keys, values, output_activation, scale):
    """Eq. 2."""
    total = 0.0
    for key, value in zip(keys, values, strict=True):
        total += np.sum((activations(memory, key, output_activation)[-1] - value) ** 2)
    return scale * total / len(keys)


def gradient_write(memory, keys, values, rate, output_activation="tanh", scale=1.0):
    """Eq. 3: f'(x) = Im f(x + ih) / h, exact to rounding, for each weight."""
    written = []
    for layer, weights in enumerate(memory):
        gradient = np.zeros_like(weights)
        for index in np.ndindex(weights.shape):
            moved = [m.astype(np.complex128) for m in memory]
            moved[layer][index] += 1e-30j
            gradient[index] = np.imag(error(moved, keys, values, output_activation, scale)) / 1e-30
        written.append(weights - rate * gradient)
    return written


def local_write(memory, keys, targets, rates, output_activation="tanh"):
    """Eq. 4; targets[l][i] is that of layer l and head i."""
    written = []
    for layer, weights in enumerate(memory):
        change = np.zeros_like(weights)
        for head, key in enumerate(keys):
            z = activations(memory, key, output_activation)
            change += np.outer(z[layer + 1] - targets[layer][head], z[layer])
        written.append(weights - rates[layer] * change / len(keys))
    return written


def metalearned(inputs, w, cell):
    """Outputs [T, B, .] and meta losses [T, B] of a cell with the configuration `cell` and the weights `w`."""
    scale = 1.0 / cell["word_size"] if cell["mean_error"] else 1.0
    activation, num_heads = cell["output_activation"], cell["num_heads"]
    outputs, losses = [], []
    for sequence in np.swapaxes(inputs, 0, 1):
        hidden = c = np.zeros(cell["units"])
        read_out = np.zeros(cell["word_size"])
        memory = [w[f"initial_memory_{layer}"] for layer in range(cell["memory_layers"])]
        writes = []
        outputs.append([])
        losses.append([])
        for x in sequence:
            hidden, c = lstm(x, np.concatenate([hidden, read_out]), c, w["kernel"], w["recurrent_kernel"], w["bias"])
            vectors = np.tanh(hidden @ w["interaction_kernel"] + w["interaction_bias"])
            *vectors, rate_vector = np.split(vectors, 3 * num_heads + 1)
            read_keys, keys, values = (vectors[i * num_heads : (i + 1) * num_heads] for i in range(3))
            rates = sigmoid(rate_vector @ w["rate_kernel"] + w["rate_bias"])
            before = memory
            if cell["write"] == "gradient":
                memory = gradient_write(memory, keys, values, rates[0], activation, scale)
            else:
                feedback = [np.tanh(v @ w["feedback_kernel"] + w["feedback_bias"]) for v in values]
                ends = np.cumsum([len(m) for m in memory])[:-1]
                targets = list(zip(*(np.split(f, ends) for f in feedback), strict=True))
                memory = local_write(memory, keys, targets, rates, activation)
            read_from = before if cell["read_first"] else memory
            read_out = np.mean([activations(read_from, k, activation)[-1] for k in read_keys], axis=0)
            outputs[-1].append(np.concatenate([hidden, read_out]) @ w["output_kernel"] + w["output_bias"])
            writes.insert(0, (keys, values))
            losses[-1].append(
                sum(
                    weight * error(memory, k, v, activation, scale)
                    for weight, (k, v) in zip(cell["recall_weights"], writes, strict=False)
                )
            )
    return np.swapaxes(np.array(outputs), 0, 1), np.array(losses).T
