"""Play: one episode of an agent, step by step, with the states of its world."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.rl.learner import draws
from tfmem.rl.rollout import initial_actor_state, rollout


class Play(NamedTuple):
    """An episode of T steps, numpy arrays.

    pictures: the world's pictures, uint8 [T + 1, rows, columns, 3]: before the first step and after each.
    states: the world's states, a nest [T + 1, ...].
    actions, rewards, values: of the steps, [T]; the value is the agent's before the action.
    """

    pictures: np.ndarray
    states: Any
    actions: np.ndarray
    rewards: np.ndarray
    values: np.ndarray


def play(agent, world, levels, seed, jit_compile=False):
    """Play an episode with actions drawn from the policy.

    Args:
      agent: an `Agent`, built.
      world: a `tfmem.envs.grid.base.GridWorld`.
      levels: its pool; the seed selects the level.
      seed: an integer of at least 0, of all draws.
      jit_compile: compile the step by XLA. Default False.

    Returns:
      A `Play`.

    Raises:
      ValueError: the world has no pictures, or no step without the next episode's beginning.
    """
    if not (hasattr(world, "advance") and hasattr(world, "picture")):
        raise ValueError(f"world: {type(world).__name__}, must be a tfmem.envs.grid.base.GridWorld")

    @tf.function(jit_compile=jit_compile, autograph=False)
    def step(number, actor):
        uniforms, seeds = draws(seed, number, 1, 1)
        after, trajectory = rollout(agent, world, levels, actor, uniforms, seeds)
        entry = tf.nest.map_structure(lambda x: x[1], trajectory.entries)
        # `after` may be in the next episode; this is the state at the end of the step.
        outcome = world.advance(levels, actor.world, entry.action, world.draw(seeds[0], 1))
        return after, outcome.state, entry.action, entry.reward, entry.baseline, entry.done

    actor = initial_actor_state(agent, world, levels, 1, world.draw(tf.constant([seed, 0], tf.int64), 1))
    states, steps, done = [actor.world], [], False
    while not done:
        actor, state, *step_result, done = step(tf.constant(len(steps), tf.int64), actor)
        states.append(state)
        steps.append([x.numpy()[0] for x in step_result])
    states = tf.nest.map_structure(lambda *leaves: tf.concat(leaves, 0), *states)
    actions, rewards, values = (np.array(column) for column in zip(*steps, strict=True))
    pictures = world.picture(states).numpy()
    return Play(pictures, tf.nest.map_structure(lambda x: x.numpy(), states), actions, rewards, values)
