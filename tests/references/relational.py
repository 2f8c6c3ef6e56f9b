"""Relational Memory Core in float64 numpy, one slot and one head at a time."""

import numpy as np


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def layer_norm(x, gamma, beta):
    return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * gamma + beta


def mlp(row, layers):
    for index, (w, b) in enumerate(layers):
        row = (np.maximum(row, 0) if index else row) @ w + b
    return row


def attention_block(rows, block, mlp_layers, num_heads, key_size, head_size):
    """All rows [r, M] of one batch element: every row attends to every row."""
    width = 2 * key_size + head_size
    qkv = [layer_norm(row @ block["qkv_w"] + block["qkv_b"], *block["qkv_norm"]) for row in rows]
    updated = []
    for i, row in enumerate(rows):
        result = []
        for head in range(num_heads):
            chunks = [r[head * width : (head + 1) * width] for r in qkv]
            query = chunks[i][:key_size] * key_size**-0.5
            scores = np.array([query @ c[key_size : 2 * key_size] for c in chunks])
            weights = np.exp(scores - scores.max())
            weights /= weights.sum()
            result.append(sum(w * c[2 * key_size :] for w, c in zip(weights, chunks, strict=True)))
        row = layer_norm(row + np.concatenate(result), *block["attention_norm"])
        updated.append(layer_norm(mlp(row, mlp_layers) + row, *block["mlp_norm"]))
    return np.stack(updated)


def step(weights, config, inputs, memory, hidden=None):
    """One step for one batch element.

    inputs [n, features], memory [slots, M]; `hidden` [slots, M] only with an output gate. Returns (output, memory).
    """
    projected = np.stack([row @ weights["input"][0] + weights["input"][1] for row in inputs])
    rows = np.concatenate([memory, projected])
    for block in weights["blocks"]:
        rows = attention_block(
            rows, block, weights["mlp"], config["num_heads"], config["key_size"], config["head_size"]
        )
    candidate = rows[: len(memory)]
    if config["gate_style"] is None:
        return candidate, candidate
    next_memory, output = np.empty_like(memory), np.empty_like(memory)
    num_gates = 2 if hidden is None else 3
    for slot in range(len(memory)):
        recurrent = np.tanh(memory[slot]) if hidden is None else hidden[slot]
        gates = recurrent @ weights["gate_memory"][0] + weights["gate_memory"][1]
        gates = gates + projected.reshape(-1) @ weights["gate_input"][0] + weights["gate_input"][1]
        i, f, *o = np.split(gates, num_gates)
        i, f = sigmoid(i + config["input_bias"]), sigmoid(f + config["forget_bias"])
        next_memory[slot] = i * np.tanh(candidate[slot]) + f * memory[slot]
        output[slot] = next_memory[slot] if hidden is None else sigmoid(o[0]) * np.tanh(next_memory[slot])
    return output, next_memory


def weights_of(core):
    """The variables of a built tfmem RelationalMemory as float64 arrays, in the order `step` wants them."""

    def pair(layer):
        return [v.numpy().astype(np.float64) for v in (layer.w, layer.b)]

    def norm(layer):
        return [v.numpy().astype(np.float64) for v in (layer.gamma, layer.beta)]

    weights = {"input": pair(core.input_linear), "mlp": [pair(layer) for layer in core.mlp], "blocks": []}
    for block in core.blocks:
        qkv_w, qkv_b = pair(block.qkv_linear)
        weights["blocks"].append(
            {
                "qkv_w": qkv_w,
                "qkv_b": qkv_b,
                "qkv_norm": norm(block.qkv_norm),
                "attention_norm": norm(block.attention_norm),
                "mlp_norm": norm(block.mlp_norm),
            }
        )
    if core.gate_style is not None:
        weights["gate_input"], weights["gate_memory"] = pair(core.gate_input), pair(core.gate_memory)
    return weights
