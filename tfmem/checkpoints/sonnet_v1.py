"""Name tables of github.com/google-deepmind/sonnet, branch v1: LSTM; RelationalMemory and its two example models."""

from tfmem.checkpoints.base import Entry, name_table, require_built, split
from tfmem.cores.lstm import LSTM
from tfmem.cores.relational import RelationalMemory
from tfmem.interop import as_sonnet_core
from tfmem.models.sequence import EncoderDecoder, SequenceModel


def _linear(name, layer):
    return [Entry(f"{name}/w", layer.w), Entry(f"{name}/b", layer.b)]


def _layer_norm(index, layer):
    name = f"layer_norm_{index}" if index else "layer_norm"
    return [Entry(f"{name}/gamma", layer.gamma), Entry(f"{name}/beta", layer.beta)]


@name_table(RelationalMemory)
def relational_memory(core):
    """Table of sonnet/python/modules/relational_memory.py; names below the module's own scope (`relational_memory`)."""
    if core.output_gate:
        raise ValueError("target: RelationalMemory with output_gate True, must be False, as in Sonnet 1")
    require_built(core, hasattr(core.input_linear, "w"))
    entries = _linear("linear", core.input_linear)
    for index, block in enumerate(core.blocks):
        entries += _linear(f"linear_{1 + index}", block.qkv_linear)
        entries += _layer_norm(3 * index, block.qkv_norm)
        entries += _layer_norm(3 * index + 1, block.attention_norm)
        entries += _layer_norm(3 * index + 2, block.mlp_norm)
    for index, layer in enumerate(core.mlp):
        entries += _linear(f"mlp/linear_{index}", layer)
    if core.gate_style is not None:
        entries += _linear(f"linear_{1 + core.num_blocks}", core.gate_input)
        entries += _linear(f"linear_{2 + core.num_blocks}", core.gate_memory)
    return entries


@name_table(SequenceModel, EncoderDecoder)
def relational_model(model):
    """Table of sonnet/examples/rmc_nth_farthest.py and rmc_learn_to_execute.py."""
    core = as_sonnet_core(model.cell)
    if not isinstance(core, RelationalMemory):
        raise ValueError(f"target: core {type(core).__name__}, must be RelationalMemory, as in the public code")
    if isinstance(model, EncoderDecoder) and not model.built:
        model.build()
    require_built(model, model.built)
    entries = [e._replace(name=f"relational_memory/{e.name}") for e in relational_memory(core)]
    scopes = [*(f"mlp/linear_{i}" for i in range(len(model.head.mlp_sizes))), "sequence_model/linear"]
    for scope, kernel, bias in zip(scopes, model.head.kernels, model.head.biases, strict=True):
        entries += [Entry(f"{scope}/w", kernel), Entry(f"{scope}/b", bias)]
    return entries


@name_table(LSTM)
def lstm(core):
    """Table of sonnet/python/modules/gated_rnn.py; names below the module's own scope (`lstm`)."""
    require_built(core, hasattr(core.gates, "w_i"))
    return [*split("w_gates", core.gates.w_i, core.gates.w_s), Entry("b_gates", core.gates.b)]
