"""The LSTM stack with skip connections, in float64 numpy, one sequence at a time."""

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def lstm(x, hidden, cell, kernel, recurrent_kernel, bias):
    """One step of Keras's LSTM for vectors."""
    i, f, g, o = np.split(x @ kernel + hidden @ recurrent_kernel + bias, 4)
    cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(cell), cell


def lstm_stack(inputs, weights, num_layers, units, skip_connections):
    """Outputs [T, B, .] for inputs [T, B, F]; `weights` by the names of the cell's variables."""
    outputs = []
    for sequence in np.swapaxes(inputs, 0, 1):
        hidden, cell = np.zeros([num_layers, units]), np.zeros([num_layers, units])
        outputs.append([])
        for x in sequence:
            for layer in range(num_layers):
                kernel = weights.get(f"kernel_{layer}", np.zeros([len(x), 4 * units]))
                recurrent = weights[f"recurrent_kernel_{layer}"]
                below = []
                if layer > 0:
                    recurrent, kernel = recurrent[units:], np.concatenate([kernel, recurrent[:units]])
                    below = hidden[layer - 1]
                hidden[layer], cell[layer] = lstm(
                    np.concatenate([x, below]), hidden[layer], cell[layer], kernel, recurrent, weights[f"bias_{layer}"]
                )
            outputs[-1].append(np.concatenate(hidden) if skip_connections else hidden[-1].copy())
    return np.swapaxes(np.array(outputs), 0, 1)
