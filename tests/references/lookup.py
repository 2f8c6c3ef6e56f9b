"""LSTM with a soft-attention look-up table in float64 numpy, one sequence at a time, the table a Python list."""

import numpy as np

from tests.references.lstm import lstm


def lookup(inputs, w, units, num_heads, word_size):
    outputs = []
    for sequence in np.swapaxes(inputs, 0, 1):
        hidden = cell = np.zeros(units)
        read_out = np.zeros(word_size)
        keys, values = [], []
        outputs.append([])
        for x in sequence:
            hidden, cell = lstm(
                x, np.concatenate([hidden, read_out]), cell, w["kernel"], w["recurrent_kernel"], w["bias"]
            )
            vectors = np.split(np.tanh(hidden @ w["interaction_kernel"] + w["interaction_bias"]), 3 * num_heads)
            keys += vectors[num_heads : 2 * num_heads]
            values += vectors[2 * num_heads :]
            reads = []
            for query in vectors[:num_heads]:
                weights = np.exp([query @ key / np.sqrt(word_size) for key in keys])
                reads.append(weights / weights.sum() @ np.array(values))
            read_out = np.mean(reads, axis=0)
            outputs[-1].append(np.concatenate([hidden, read_out]) @ w["output_kernel"] + w["output_bias"])
    return np.swapaxes(np.array(outputs), 0, 1)
