"""Contents of memories over time in mapping, sorting and recall.

Huynh et al. 2020 show the DNC's memory so in mapping (Figure 3 of the supplement).
"""

import tensorflow as tf

from tfmem import plotting
from tfmem.recurrence import unroll

from ..runs import open_run


def memory(experiment):
    """Return the memory of a `SupervisedExperiment` over its evaluation's first sequence.

    Returns:
      `{name: [T, rows, columns]}`: grids of a multigrid network's last layer, means over channels; the slots of a DNC;
      {} for other cores.
    """
    config, model = experiment.config, experiment.model
    inputs = experiment.inputs(experiment.evaluation_data(0))
    if hasattr(config.core, "items"):
        items = config.core.items(config.task, inputs)
        memories, _ = model.write(items, model.get_initial_state(items.shape[1]))
        grids = (tf.cast(grid[:, 0], tf.float32).numpy().mean(-1) for grid in memories[-1])
        return {f"{grid.shape[-1]}×{grid.shape[-1]}": grid for grid in grids}
    num_items = getattr(config.task, "num_items", None) or config.task.num_inputs
    shown = model.embed(tf.cast(inputs[:num_items, :1], model.compute_dtype))
    return slots(model.cell, shown, model.get_initial_state(1))


def slots(cell, inputs, state):
    """Return the slots of a DNC over a sequence [T, 1, features], `{name: [T, slots, word]}`; {} for other cores."""
    if not hasattr(state, "access_state"):
        return {}

    def step(inputs, state):
        _, state = cell(inputs, state)
        return state.access_state.memory, state

    held, _ = unroll(step, inputs, state)
    return {f"{held.shape[2]} slots of {held.shape[3]}": tf.cast(held[:, 0], tf.float32).numpy()}


def core_name(experiment):
    """Name of an experiment's core for figures."""
    return type(experiment.config.core).__name__.removesuffix("Config")


def draw_memory(experiment, held, folder):
    """Draw the memories of an experiment, as of `memory`, into a folder; nothing if there is none."""
    if held:
        figure = plotting.memory_figure({core_name(experiment): held}, title=experiment.name)
        figure.savefig(folder / "memory.png", dpi=120)


def compare(folders, out):
    """Draw the memories of several runs side by side into the folder `out`; returns the figures' names."""
    held = {}
    for folder in folders:
        _, experiment, _ = open_run(folder.path)
        name = core_name(experiment)
        if name in held:
            name += f", {folder.path.parent.name}/{folder.path.name}"
        held[name] = memory(experiment)
    held = {name: memories for name, memories in held.items() if memories}
    if not held:
        return []
    plotting.memory_figure(held).savefig(out / "memory.png", dpi=120)
    return ["memory.png"]
