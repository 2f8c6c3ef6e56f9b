"""Experiments of agents by composition: any core in any world of the graph.

    config = AgentConfig(
        world=GoalMaze(side=7, max_steps=100), core=LSTMConfig(units=64), num_worlds=64, unroll_length=100,
        learning_rate=1e-3, num_updates=2_000,
    )
    tfmem.training.train(AgentExperiment(config), "runs/mine")

An update is T steps of B agents in their worlds, the loss and the optimizer, in one graph. Levels come from a pool that
the compiled update gets as an argument. An evaluation runs the first episode of each of `eval_episodes` worlds, whose
levels are from another pool, and draws actions from the policy.
"""

import functools

import tensorflow as tf

from tfmem import training
from tfmem.optimizers import linear_decay, make_optimizer
from tfmem.rl.agent import Agent, RandomAgent
from tfmem.rl.learner import ActorCritic, Auxiliary, AuxiliaryLoss, Episodes, evaluation
from tfmem.rl.play import play
from tfmem.rl.rollout import observation_spec
from tfmem.training import numbered, uses_xla
from tfmem.validation import check_integer

# What an experiment needs of a world besides the observations, which its agent reads.
WORLD = ("num_actions", "observation_shape", "observation_dtype", "max_steps", "levels", "draw", "reset", "step")
EVALUATION_SEED = 2**32  # of levels and draws; a run's seed is less than 2^31


class AgentExperiment(training.Experiment):
    """Training of an `AgentConfig`.

    Scores are means over episodes: "episode_return", "episode_length" and, for a world with `reports_solved`, "solved",
    the share that the rules ended with a positive reward.

    Attributes:
      world: the configuration's world.
      learner: `ActorCritic`.
    """

    name = "agent"

    def __init__(self, config):
        super().__init__(config)
        self.world = config.world
        missing = [name for name in WORLD if not hasattr(self.world, name)]
        if missing or isinstance(self.world, type):
            lacks = f"; it has no {', '.join(missing)}" if missing else ""
            raise ValueError(f"world: {self.world!r}, must be a world, such as GoalMaze(){lacks}")
        self.model = self.make_model()
        optimizer = make_optimizer(
            config.optimizer,
            config.learning_rate,
            config.momentum,
            config.rms_decay,
            config.epsilon,
            config.gradient_norm_clip,
        )
        self.learner = ActorCritic(
            self.model,
            config.world,
            optimizer,
            config.objective,
            config.num_worlds,
            config.unroll_length,
            config.policy_lag,
            self.auxiliary(),
        )
        optimizer.build(self.learner.trained_variables())

    @functools.cached_property
    def levels(self):
        """Levels of training. Tensors that a function captures are its arguments, where arrays would be constants."""
        return tf.nest.map_structure(tf.constant, self.world.levels(self.config.num_levels, self.config.seed))

    def make_core(self):
        """Make the agent's core; None without memory."""
        config = self.config
        # A core that stores every step also stores the step at which a truncated episode is evaluated.
        return None if config.core is None else config.core.make(self.world.max_steps + 1, config.policy)

    def make_model(self):
        """Make the agent of `self.config`, built."""
        config, world = self.config, self.config.world
        agent = Agent(
            config.torso.make(),
            self.make_core(),
            world.num_actions,
            config.action_input,
            config.reward_input,
            config.skip,
            config.mlp_sizes,
        )
        return agent.build_for(observation_spec(world))

    def auxiliary_loss(self):
        """Return a function of entries and output that is added to the loss, or None: by default the core's own loss.

        See `auxiliary` for more than a scalar.
        """
        weight = getattr(self.config.core, "meta_weight", 0.0)
        if not weight:
            return None

        def meta_loss(entries, output):
            values = output.core.meta_loss[:-1]  # entry T is entry 0 of the next record
            return weight * (tf.reduce_sum if self.config.objective.reduction == "sum" else tf.reduce_mean)(values)

        return meta_loss

    def auxiliary(self):
        """Return the `Auxiliary` of the learner, or None: by default that of `auxiliary_loss`."""
        loss = self.auxiliary_loss()
        return None if loss is None else Auxiliary(lambda entries, output, _: AuxiliaryLoss(loss(entries, output)))

    def measure(self, agent):
        """Return `measure` and `totals` of an agent's `tfmem.rl.learner.evaluation`; by default no further scores."""
        return None, ()

    def variables(self):
        return {**numbered("model", self.model.weights), **numbered("optimizer", self.learner.optimizer.variables)}

    def initial_carry(self):
        return self.learner.initial_carry(self.levels, self.config.seed)

    def batch(self, update):
        return {}

    def learning_rate(self, update):
        """Learning rate of an update (int64 scalar tensor)."""
        config = self.config
        if config.final_learning_rate is None:
            return tf.constant(config.learning_rate)
        return linear_decay(update, config.learning_rate, config.final_learning_rate, config.decay_updates)

    def train_step(self, update, batch, carry):
        return self._scheduled(update, lambda: self.learner.train_step(update, self.levels, carry, self.config.seed))

    def learn_step(self, update, trajectory, episodes):
        """Run the learner's half of `train_step` on the record of all worlds: `(Episodes, metrics)`."""
        return self._scheduled(update, lambda: self.learner.learn_and_count(update, trajectory, episodes))

    def _scheduled(self, update, step):
        """Run a step with the learning rate of its update."""
        rate = self.learning_rate(update)
        self.learner.optimizer.learning_rate.assign(rate)
        after, metrics = step()
        return after, {**self._reported(metrics), "learning_rate": rate}

    def _reported(self, scores):
        solved = getattr(self.world, "reports_solved", False)
        return {name: score for name, score in scores.items() if name != "solved" or solved}

    # Evaluation

    @functools.cached_property
    def unseen_levels(self):
        """Levels of evaluations, a nest of tensors [eval_episodes, ...], the same for every run.

        They are of another pool than those of training. A world with few levels, such as the goal maze, has the same
        in both.
        """
        levels = self.config.world.levels(self.config.eval_episodes, EVALUATION_SEED)
        return tf.nest.map_structure(tf.constant, levels)

    def evaluation_of(self, agent):
        """Make the `Evaluation` of any agent on `unseen_levels`."""
        config = self.config
        steps = -(-config.world.max_steps // config.unroll_length)
        return evaluation(
            agent,
            config.world,
            self.unseen_levels,
            config.eval_episodes,
            config.unroll_length,
            steps,
            EVALUATION_SEED,
            uses_xla(config),
            *self.measure(agent),
        )

    @functools.cached_property
    def _evaluation(self):
        return self.evaluation_of(self.model)

    def evaluation(self):
        found = self._evaluation

        def step(number, batch, carry):
            carry, scores = found.step(number, batch, carry)
            return carry, self._reported(scores)

        return found._replace(step=step)

    def evaluate(self):
        return self.evaluation().scores(lambda number: {})

    def episodes(self):
        """Run an evaluation: `Episodes` of numpy arrays, one on each of `unseen_levels`."""
        (_, episodes, _), _ = self._evaluation.run(lambda number: {})
        return Episodes(*(field.numpy() for field in episodes))

    def result(self, evaluation):
        """The scores, and those of a random policy on the same levels."""
        random = self.evaluation_of(RandomAgent(self.world.num_actions)).scores(lambda number: {})
        names = [name for name in ("episode_return", "solved") if name in self._reported(random)]
        return {**evaluation, **{f"random_{name}": random[name] for name in names}}

    def play(self, number=0):
        """Play an episode on a level of evaluations: `tfmem.rl.play.Play`; `number` selects the level and all draws.

        Raises:
          ValueError: the world draws no pictures of its states, or `number` is negative or no integer.
        """
        check_integer("number", number, 0)
        if not hasattr(self.world, "picture"):
            raise ValueError(f"world: {type(self.world).__name__}, must be a world of the graph, with pictures")
        return play(self.model, self.world, self.unseen_levels, EVALUATION_SEED + 1 + number, uses_xla(self.config))

    def figures(self, folder):
        """Draw curves of the scores."""
        self.draw_curves(
            folder, self._reported(dict.fromkeys(("episode_return", "episode_length", "solved", "mean_rho")))
        )
