"""The slot memory, RMACore and the heads of the public agent in float64 numpy, one batch element and row at a time."""

import numpy as np


def softplus(x):
    return np.log1p(np.exp(-abs(x))) + max(x, 0.0)


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def unit(x):
    return x / np.sqrt(max(np.sum(x * x), 1e-12))


def read(words, memory, num_reads, top_k):
    """words [H (D + 1)], memory [K, D] -> reads [H D], dense weights [H, K]."""
    size = memory.shape[1]
    reads, all_weights = [], np.zeros([num_reads, len(memory)])
    for h in range(num_reads):
        key, strength = words[h * size : (h + 1) * size], softplus(words[num_reads * size + h])
        scores = [strength * unit(key) @ unit(row) for row in memory]
        best = sorted(range(len(memory)), key=lambda i: -scores[i])[: top_k or len(memory)]
        total = sum(np.exp(scores[i]) for i in best)
        for i in best:
            all_weights[h, i] = np.exp(scores[i]) / total
        reads.append(sum(all_weights[h, i] * memory[i] for i in best))
    return np.concatenate(reads), all_weights


def lstm(x, hidden, cell, w, b):
    i, j, f, o = np.split(np.concatenate([x, hidden]) @ w + b, 4)
    cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
    return sigmoid(o) * np.tanh(cell), cell


def controller(x, layers, weights):
    new, below = [], []
    for (hidden, cell), (w, b) in zip(layers, weights, strict=True):
        new.append(lstm(np.concatenate([x, *below]), hidden, cell, w, b))
        below = [new[-1][0]]
    return np.concatenate([hidden for hidden, _ in new]), new


def mlp(x, layers):
    for w, b in layers[:-1]:
        x = np.tanh(x @ w + b)
    w, b = layers[-1]
    return x @ w + b


def run(inputs, weights, memory, order, num_reads, top_k, counter=0, written=None):
    """RMACore on one sequence [T, features].

    weights: dict(word=[(w, b), (w, b)], gates=[(w, b), ...], read_words=(w, b)), each w with the rows of the inputs of
    the map in the order of the equations. `written`: words [T, D] to write in place of the core's own, to hold them
    fixed where the derivative is taken.

    Returns outputs [T, ...], the last memory [K, D], the words [T, D] and the dense read weights [T, H, K].
    """
    memory = memory.copy()
    units = weights["gates"][0][0].shape[1] // 4
    layers = [(np.zeros(units), np.zeros(units)) for _ in weights["gates"]]
    h, r = np.zeros(units * len(layers)), np.zeros(num_reads * memory.shape[1])
    w_read, b_read = weights["read_words"]
    outputs, words, all_weights = [], [], []
    for t, x in enumerate(inputs):
        if order == "paper":
            r, read_weights = read(np.concatenate([x, h]) @ w_read + b_read, memory, num_reads, top_k)
            h, layers = controller(np.concatenate([x, r]), layers, weights["gates"])
            z = mlp(np.concatenate([x, h]), weights["word"])
        else:
            z = mlp(np.concatenate([x, h, r]), weights["word"])
            h, layers = controller(z, layers, weights["gates"])
            r, read_weights = read(h @ w_read + b_read, memory, num_reads, top_k)
        memory[(counter + t) % len(memory)] = z if written is None else written[t]
        outputs.append(np.concatenate([z, h, r]))
        words.append(z)
        all_weights.append(read_weights)
    return np.array(outputs), memory, np.array(words), np.array(all_weights)
