"""Differentiable plasticity (Miconi et al. 2018) in float64 numpy, one sequence and one connection at a time."""

import numpy as np


def plastic(inputs, w, units, rule):
    alpha = np.broadcast_to(w["alpha"], [units, units])
    outputs = []
    for sequence in np.swapaxes(inputs, 0, 1):
        y, hebb = np.zeros(units), np.zeros([units, units])
        outputs.append([])
        for x in sequence:
            drive = x @ w["kernel"] + w["bias"]
            new = np.zeros(units)
            for j in range(units):
                total = sum((w["w"][i, j] + alpha[i, j] * hebb[i, j]) * y[i] for i in range(units))
                new[j] = np.tanh(total + drive[j])
            for i in range(units):
                for j in range(units):
                    if rule == "hebb":
                        hebb[i, j] = (1 - w["eta"]) * hebb[i, j] + w["eta"] * y[i] * new[j]
                    else:
                        hebb[i, j] += w["eta"] * new[j] * (y[i] - new[j] * hebb[i, j])
            y = new
            outputs[-1].append(y)
    return np.swapaxes(np.array(outputs), 0, 1)
