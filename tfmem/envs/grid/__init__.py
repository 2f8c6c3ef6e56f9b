"""Grid worlds as pure functions of TensorFlow: BoxWorld, Mini Pacman and two mazes, with one contract.

A world is a frozen dataclass of its settings. Its methods are pure functions of tensors whose first axis is B worlds.
Shapes are static, so that T steps of B worlds compile together with an agent, by XLA or to StableHLO:

    world = BoxWorld()
    levels = world.levels(number=4096, seed=0)       # numpy: a pool of N levels, a NamedTuple of arrays [N, ...]
    state, observation = world.reset(levels, world.draw([seed, 0], batch_size))
    for step in 1, 2, ...:                           # a tf.while_loop in a graph
        state, result = world.step(levels, state, action, world.draw([seed, step], batch_size))

- `levels(number, seed)` makes the pool. A recorded level is such a NamedTuple as well.
- `draw(seed, batch_size)` draws the random decisions of a step, from two integers alone, by stateless Philox numbers.
  It is `decide(numbers)` of int32 numbers [B, `num_numbers`] from 0 to 2^31 - 1. A recorded step passes its own
  NamedTuple. The field `level` [B] is the pool's next level, modulo N.
- `reset(levels, decisions)` begins an episode in every world: `(state, observation)`.
- `step(levels, state, action, decisions)` gives `(state, Step)`. The state is a NamedTuple of tensors [B, ...].
  Where an episode ends, the next one begins in the same step: `reward`, `terminated` and `truncated` are the old
  episode's, `state` and `observation` the new one's, and `last_observation` is the old one's end. This is the
  convention of scalable_agent. `terminated` means that the rules ended the episode, `truncated` that the time limit
  did; never both. XLA drops `last_observation` if nothing reads it.
- `begin(level)` is the first state of a batch of B levels; `advance(levels, state, action, decisions)` is a step
  without the beginning of the next episode; `observe(state)` is the agent's observation; `picture(state)` is the
  whole grid in RGB, uint8.
- `labels(state)`, which some worlds have, is what a loss reads and the agent does not get.
- `num_actions`, `observation_shape` and `observation_dtype` describe one world to an agent.

Observations, actions and rules of each world are in its module. `faces` makes Gymnasium environments of them.
"""
