"""EntNet (Henaff et al. 2017, Eqs. 2-5) in float64 numpy, one sequence and one cell at a time."""

import numpy as np

from tests.references.lstm import sigmoid


def entity(inputs, w):
    outputs = []
    for sequence in np.swapaxes(inputs, 0, 1):
        cells = list(w["keys"])
        outputs.append([])
        for x in sequence:
            s = x @ w["encoder_kernel"]
            for j, key in enumerate(w["keys"]):
                gate = sigmoid(s @ cells[j] + s @ key)
                candidate = cells[j] @ w["state_kernel"] + key @ w["key_kernel"] + s @ w["input_kernel"]
                candidate = np.where(candidate > 0, candidate, w["slopes"] * candidate)
                cells[j] = cells[j] + gate * candidate
                cells[j] = cells[j] / np.linalg.norm(cells[j])
            outputs[-1].append(np.sum(cells, axis=0))
    return np.swapaxes(np.array(outputs), 0, 1)
