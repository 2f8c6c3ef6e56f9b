"""Remembering a cue as an experiment: an agent that acts and learns in the graph."""

import dataclasses

import keras
import numpy as np

from tests.rl.worlds import Cue
from tfmem import training
from tfmem.cores import LSTMStack
from tfmem.rl.agent import Agent, MLPTorso
from tfmem.rl.learner import ActorCritic, Objective, evaluation
from tfmem.rl.rollout import observation_spec
from tfmem.training import RunConfig, numbered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(RunConfig):
    memory: bool = True
    """Give the agent a core."""
    policy_lag: int = 0
    """Updates by which the actors are behind."""
    num_steps: int = 5
    """Of an episode."""
    nan_at: int = -1
    """Update in which the world's rewards are NaN."""


class NaNCue(Cue):
    """Its levels are what is added to the rewards."""

    def step(self, levels, state, action, cue):
        state, result = super().step(levels, state, action, cue)
        return state, result._replace(reward=result.reward + levels)


class CueExperiment(training.Experiment):
    name = "tests/cue"

    def __init__(self, config):
        super().__init__(config)
        world = NaNCue(config.num_steps)
        core = LSTMStack(16, 1) if config.memory else None
        self.model = Agent(MLPTorso(), core, world.num_actions).build_for(observation_spec(world))
        optimizer = keras.optimizers.Adam(1e-2, global_clipnorm=0.5)
        optimizer.build(self.model.trainable_variables)
        objective = Objective(entropy_cost=0.01, reduction="mean")
        self.learner = ActorCritic(self.model, world, optimizer, objective, 32, 8, config.policy_lag)

    def variables(self):
        return {**numbered("model", self.model.weights), **numbered("optimizer", self.learner.optimizer.variables)}

    def initial_carry(self):
        return self.learner.initial_carry((), self.config.seed)

    def batch(self, update):
        return {"extra": np.float32(np.nan if update == self.config.nan_at else 0.0)}

    def data_source(self, split="train"):
        return "tests.rl.source:Zeros", {}

    def train_step(self, update, batch, carry):
        return self.learner.train_step(update, batch["extra"], carry, self.config.seed)

    def evaluation(self):
        return evaluation(self.model, Cue(self.config.num_steps), (), 64, 8, 1, self.config.seed + 2**20)

    def evaluate(self):
        return self.evaluation().scores(lambda number: {})

    def figures(self, folder):
        pass
