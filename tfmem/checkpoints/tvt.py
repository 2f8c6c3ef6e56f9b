"""Name tables of deepmind-research `tvt` (github.com/google-deepmind/deepmind-research, Sonnet 1).

Scopes: "memory_reader" for a separate reader, "rma_core" for a core, "rma_agent/rma_core" inside the agent. A
checkpoint of the whole core loads into a `TVTCore`; its `rma` is the `RMACore` without the heads.
"""

from tfmem.checkpoints.base import Entry, name_table, require_built, split
from tfmem.cores.rma import RMACore, RMAReader
from tfmem.cores.tvt import TVTCore


def linear(scope, layer):
    """Entries of a linear layer."""
    return [Entry(f"{scope}/w", layer.w), Entry(f"{scope}/b", layer.b)]


def split_linear(weights, bias, layer):
    """Entries of a `SplitLinear`, stored as one matrix."""
    return [*split(weights, layer.w_i, layer.w_s), Entry(bias, layer.b)]


@name_table(RMAReader)
def reader_table(reader):
    """Table of the memory's reader."""
    require_built(reader, hasattr(reader.linear, "w"))
    return linear("linear", reader.linear)


@name_table(RMACore)
def core_table(core):
    """Table of the core without heads."""
    if core.order != "code":
        raise ValueError(f"target: RMACore of order {core.order!r}, must be 'code', the public code's")
    require_built(core, hasattr(core.word, "w"))
    entries = split_linear("z_encoder_mlp/linear_0/w", "z_encoder_mlp/linear_0/b", core.word_hidden)
    entries += linear("z_encoder_mlp/linear_1", core.word)
    entries += linear("memory_reader/linear", core.read_words)
    for layer, gates in enumerate(core.gates):
        scope = f"lstm_{layer}" if layer else "lstm"
        entries += split_linear(f"{scope}/w_gates", f"{scope}/b_gates", gates)
    return entries


@name_table(TVTCore)
def tvt_table(core):
    """Table of the core with policy and baseline."""
    require_built(core, hasattr(core.policy_mlp[0], "w"))
    entries = core_table(core.rma)
    for mlp, layers in (("policy_mlp", core.policy_mlp), ("baseline_mlp", core.baseline_mlp)):
        for i, layer in enumerate(layers):
            entries += linear(f"Policy/{mlp}/linear_{i}", layer)
    return entries
