"""Reinforcement learning with memory: returns, losses, agents of any core, and actors and learner in one graph.

`returns` and `losses` are pure functions, `agent` has the agent and its torsos, `rollout` acts in worlds, `learner`
learns from the record. `config` and `experiment` make a `tfmem.training.Experiment` of them; `play` records an episode.
`distributed` has actors in processes of their own, by Ray.
The names below are loaded at first use.
"""

import importlib

_LAZY_ATTRIBUTES = {
    "ActorCritic": "learner",
    "Agent": "agent",
    "AgentConfig": "config",
    "AgentExperiment": "experiment",
    "ConvTorso": "agent",
    "ConvTorsoConfig": "config",
    "FrameTorso": "agent",
    "FrameTorsoConfig": "config",
    "MLPTorso": "agent",
    "MLPTorsoConfig": "config",
    "Objective": "learner",
}

__all__ = sorted(_LAZY_ATTRIBUTES)


def __getattr__(name):
    if name in _LAZY_ATTRIBUTES:
        return getattr(importlib.import_module(f"tfmem.rl.{_LAZY_ATTRIBUTES[name]}"), name)
    raise AttributeError(f"module 'tfmem.rl' has no attribute {name!r}")


def __dir__():
    return __all__
