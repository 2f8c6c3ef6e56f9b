"""Name tables of github.com/google-deepmind/sonnet, branch v1: RelationalMemory and its Nth-farthest model."""

from tfmem.checkpoints.base import Entry, name_table
from tfmem.cores.relational import RelationalMemory
from tfmem.models.sequence import SequenceModel


def _linear(name, layer):
    return [Entry(f"{name}/w", layer.w), Entry(f"{name}/b", layer.b)]


def _layer_norm(index, layer):
    name = f"layer_norm_{index}" if index else "layer_norm"
    return [Entry(f"{name}/gamma", layer.gamma), Entry(f"{name}/beta", layer.beta)]


@name_table(RelationalMemory)
def relational_memory(core):
    """sonnet/python/modules/relational_memory.py; names below the module's own scope (`relational_memory`)."""
    if core.output_gate:
        raise ValueError("target: a RelationalMemory with output_gate=True has no counterpart in Sonnet 1")
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


@name_table(SequenceModel)
def nth_farthest(model):
    """sonnet/examples/rmc_nth_farthest.py."""
    if not isinstance(model.core, RelationalMemory):
        raise ValueError(f"target: the public model's core is a RelationalMemory, not {type(model.core).__name__}")
    entries = [e._replace(name=f"relational_memory/{e.name}") for e in relational_memory(model.core)]
    for index, layer in enumerate(model.mlp):
        entries += _linear(f"mlp/linear_{index}", layer)
    return entries + _linear("sequence_model/linear", model.output)
