"""Slow float64 differentiable neural computer from the formulae: one batch element, loops over heads and slots."""

import numpy as np

EPSILON = 1e-6


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def softmax(x):
    e = np.exp(x - np.max(x))
    return e / np.sum(e)


def softplus(x):
    return np.logaddexp(0, x)


def norm(x):
    return np.sqrt(np.sum(x**2) + EPSILON)


def cosine_weights(memory, key, strength):
    similarity = [key @ word / (norm(key) * norm(word) + EPSILON) for word in memory]
    return softmax(np.array(similarity) * softplus(strength))


def usage(write_weights, free_gate, read_weights, previous):
    u = previous + (1 - previous) * (1 - np.prod(1 - write_weights, axis=0))
    for f, r in zip(free_gate, read_weights, strict=True):
        u = u * (1 - f * r)
    return u


def allocation(u):
    u = EPSILON + (1 - EPSILON) * u
    a, product = np.zeros_like(u), 1.0
    for slot in sorted(range(len(u)), key=lambda slot: u[slot]):
        a[slot] = (1 - u[slot]) * product
        product *= u[slot]
    return a


def write_allocation(u, write_gates):
    weights = []
    for gate in write_gates:
        weights.append(allocation(u))
        u = u + (1 - u) * gate * weights[-1]
    return np.array(weights)


def erase_and_write(memory, address, erase, values):
    kept = np.ones_like(memory)
    for w, e in zip(address, erase, strict=True):
        kept *= 1 - np.outer(w, e)
    return memory * kept + sum(np.outer(w, v) for w, v in zip(address, values, strict=True))


def linkage(write_weights, link, precedence):
    next_link = np.zeros_like(link)
    heads, slots = write_weights.shape
    for h in range(heads):
        w = write_weights[h]
        for i in range(slots):
            for j in range(slots):
                if i != j:
                    next_link[h, i, j] = (1 - w[i] - w[j]) * link[h, i, j] + w[i] * precedence[h, j]
    return next_link, (1 - write_weights.sum(axis=1, keepdims=True)) * precedence + write_weights


def access(v, config, x, state):
    """`v`: the interface's variables by their public names, e.g. "write_keys/w". `x`: the controller's output."""
    w_size, r_heads, w_heads = config["word_size"], config["num_reads"], config["num_writes"]

    def linear(name, *shape):
        return (x @ v[f"{name}/w"] + v[f"{name}/b"]).reshape(shape)

    values = linear("write_vectors", w_heads, w_size)
    erase = sigmoid(linear("erase_vectors", w_heads, w_size))
    free_gate = sigmoid(linear("free_gate", r_heads))
    allocation_gate = sigmoid(linear("allocation_gate", w_heads))
    write_gate = sigmoid(linear("write_gate", w_heads))
    read_mode = [softmax(row) for row in linear("read_mode", r_heads, 1 + 2 * w_heads)]
    write_keys, write_strengths = linear("write_keys", w_heads, w_size), linear("write_strengths", w_heads)
    read_keys, read_strengths = linear("read_keys", r_heads, w_size), linear("read_strengths", r_heads)

    s = {"usage": usage(state["write_weights"], free_gate, state["read_weights"], state["usage"])}
    allocated = write_allocation(s["usage"], allocation_gate * write_gate)
    s["write_weights"] = np.array(
        [
            write_gate[h]
            * (
                allocation_gate[h] * allocated[h]
                + (1 - allocation_gate[h]) * cosine_weights(state["memory"], write_keys[h], write_strengths[h])
            )
            for h in range(w_heads)
        ]
    )
    s["memory"] = erase_and_write(state["memory"], s["write_weights"], erase, values)
    s["link"], s["precedence_weights"] = linkage(s["write_weights"], state["link"], state["precedence_weights"])
    read_weights = []
    for i, r in enumerate(state["read_weights"]):
        weights = read_mode[i][-1] * cosine_weights(s["memory"], read_keys[i], read_strengths[i])
        for h, link in enumerate(s["link"]):
            weights = weights + read_mode[i][h] * (link.T @ r) + read_mode[i][w_heads + h] * (link @ r)
        read_weights.append(weights)
    s["read_weights"] = np.array(read_weights)
    s["access_output"] = s["read_weights"] @ s["memory"]
    return s


def lstm(layers):
    """Controller of (w_gates, b_gates) for each layer; rows: input, reads, layer below, own hidden state."""

    def controller(x, state):
        outputs, next_state = [], []
        for (w, b), (hidden, cell) in zip(layers, state, strict=True):
            i, j, f, o = np.split(np.concatenate([x, *outputs[-1:], hidden]) @ w + b, 4)
            cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j)
            outputs.append(np.tanh(cell) * sigmoid(o))
            next_state.append((outputs[-1], cell))
        return np.concatenate(outputs), next_state

    return controller


def feedforward(layers):
    """Controller of (w, b) for each layer."""

    def controller(x, state):
        for w, b in layers:
            x = np.maximum(x @ w + b, 0)
        return x, state

    return controller


def dnc(v, access_config, controller, controller_state, clip_value, inputs, state):
    """One batch element: inputs [T, I] and a state by the goldens' names; (outputs [T, O], list of states)."""

    def clip(x):
        return np.clip(x, -clip_value, clip_value) if clip_value else x

    access_v = {name.removeprefix("memory_access/"): value for name, value in v.items()}
    outputs, states = [], []
    for x in inputs:
        h, controller_state = controller(np.concatenate([x, state["access_output"].ravel()]), controller_state)
        h, controller_state = clip(h), [(clip(a), clip(c)) for a, c in controller_state]
        state = access(access_v, access_config, h, state)
        states.append(state)
        reads = state["access_output"].ravel()
        outputs.append(clip(np.concatenate([h, reads]) @ v["output_linear/w"] + v["output_linear/b"]))
    return np.array(outputs), states
