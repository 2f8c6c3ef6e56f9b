"""Experiments of agents by composition: any core in a grid world, resume, unseen levels, bundles, play."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from tests.aot.experiments import tensorflow_losses
from tests.aot.support import aot, losses
from tests.rl.worlds import Cue
from tests.support import small_cores
from tests.training.test_trainer import Crash, assert_same_run, state_of
from tfmem.aot.bundle import write_bundle
from tfmem.aot.lowering import make_bundle
from tfmem.cores.config import ConvLSTMConfig, LSTMConfig, MetalearnedMemoryConfig
from tfmem.envs.grid.box_world import BoxWorld
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.envs.grid.mini_pacman import MiniPacman
from tfmem.rl import AgentConfig, AgentExperiment, ConvTorsoConfig, MLPTorsoConfig, Objective
from tfmem.rl.play import play
from tfmem.training import TrainingDivergedError, UpdateError, config_fields, config_from_fields, train
from tfmem.training.run_folder import RunFolder

BOX_WORLD = BoxWorld(side=7, path_lengths=(1,), num_distractors=(0,), max_steps=6)
CONFIG = AgentConfig(
    world=GoalMaze(side=5, max_steps=6),
    core=LSTMConfig(units=4),
    objective=Objective(reduction="mean"),
    num_worlds=3,
    unroll_length=4,
    policy_lag=1,
    learning_rate=1e-2,
    gradient_norm_clip=0.5,
    num_updates=8,
    updates_per_call=2,
    log_every=3,
    eval_every=4,
    checkpoint_every=4,
    num_levels=4,
    eval_episodes=5,
)


def first_update(config):
    experiment = AgentExperiment(config)
    step = tf.function(experiment.train_step, autograph=False)
    carry, metrics = step(tf.constant(0, tf.int64), {}, experiment.initial_carry())
    return experiment, carry, metrics


# An update takes seconds to trace.
LATER = [name for name in small_cores() if name not in ("LSTMConfig", "PlasticRNNConfig")]
ANY_CORE = [
    *(core for name, core in small_cores().items() if name not in LATER),
    None,
    *(pytest.param(small_cores()[name], marks=pytest.mark.long) for name in LATER),
]


@pytest.mark.slow
@pytest.mark.parametrize("core", ANY_CORE, ids=lambda core: type(core).__name__)
def test_any_core_is_an_agents(core):
    config = dataclasses.replace(CONFIG, core=core, objective=Objective(bootstrap_truncated=True))
    experiment, _, metrics = first_update(config)
    assert np.isfinite(metrics["loss"])
    assert metrics["gradient_norm"] > 0
    assert ("auxiliary_loss" in metrics) == isinstance(core, MetalearnedMemoryConfig)
    assert experiment.evaluate()["ended"] == 1


def test_a_core_of_grids_is_an_agents():
    config = dataclasses.replace(
        CONFIG,
        world=BOX_WORLD,
        core=ConvLSTMConfig(filters=3, kernel_size=2),
        torso=ConvTorsoConfig(filters=(2,), padding="same", output="grid"),
    )
    experiment, carry, _ = first_update(config)
    assert carry.actor.core_state.cell.shape == (3, 5, 5, 3)
    assert experiment.model.step(*_frame(experiment), experiment.model.initial_state(1))[0].logits.shape == (1, 4)


def _frame(experiment):
    world = experiment.world
    observation = tf.zeros([1, *world.observation_shape], world.observation_dtype)
    return observation, tf.zeros([1], tf.int32), tf.zeros([1]), tf.ones([1], tf.bool)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_cores_own_loss_has_the_objectives_reduction_and_counts_each_frame_once(reduction):
    core = MetalearnedMemoryConfig(units=4, memory_size=4, word_size=4, meta_weight=0.5)
    config = dataclasses.replace(CONFIG, core=core, objective=Objective(reduction=reduction))
    experiment = AgentExperiment(config)
    values = tf.random.stateless_uniform([5, 3], [0, 0])
    reduced = {"mean": tf.reduce_mean, "sum": tf.reduce_sum}[reduction](values[:-1])
    output = type("Output", (), {"core": type("Outputs", (), {"meta_loss": values})})
    found = experiment.learner.auxiliary.loss((), output, 0).loss
    np.testing.assert_allclose(found, 0.5 * reduced, rtol=1e-6)


def test_learning_rates_decay():
    config = dataclasses.replace(CONFIG, final_learning_rate=0.0, decay_updates=10)
    experiment = AgentExperiment(config)
    rates = [float(experiment.learning_rate(tf.constant(n, tf.int64))) for n in (0, 5, 20)]
    np.testing.assert_allclose(rates, [1e-2, 5e-3, 0])
    assert float(AgentExperiment(CONFIG).learning_rate(tf.constant(5, tf.int64))) == np.float32(1e-2)


# ----------------------------------------------------------------------------------------------------- run folders


class Crashing(AgentExperiment):
    """Loses its data at update 6."""

    def batch(self, update):
        if update == 6:
            raise Crash
        return super().batch(update)


@pytest.mark.long
def test_resumed_equals_uninterrupted(tmp_path):
    train(AgentExperiment(CONFIG), tmp_path / "whole")
    with pytest.raises(Crash):
        train(Crashing(CONFIG), tmp_path / "resumed")
    assert RunFolder(tmp_path / "resumed").restore()[0].update == 4
    train(AgentExperiment(CONFIG), tmp_path / "resumed")
    assert_same_run(tmp_path / "resumed", state_of(tmp_path / "whole"))
    result = RunFolder(tmp_path / "whole").result()["ours"]
    assert set(result) == {"episode_return", "episode_length", "ended", "random_episode_return"}
    assert {path.name for path in (tmp_path / "whole/figures").iterdir()} >= {"curve_episode_return.png"}


def test_configurations_come_back():
    for config in (CONFIG, dataclasses.replace(CONFIG, core=None, world=BOX_WORLD, torso=MLPTorsoConfig(sizes=(3,)))):

        @dataclasses.dataclass(frozen=True, kw_only=True)
        class Config(AgentConfig):
            world: BoxWorld | GoalMaze

        fields = config_fields(config)
        assert config_fields(config_from_fields(Config, fields)) == fields


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_worlds": 0}, "num_worlds: 0, must be at least 1"),
        ({"core": "lstm"}, "core: 'lstm', must be a configuration of a core"),
        ({"policy_lag": -1}, "policy_lag: -1, must be at least 0"),
        ({"eval_episodes": 0}, "eval_episodes: 0, must be at least 1"),
        ({"final_learning_rate": 0.0, "decay_updates": 7}, r"decay_updates: 7, must be at least num_updates \(8\)"),
        ({"mlp_sizes": (4, 0)}, r"mlp_sizes: \(4, 0\), must be a sequence of positive integers"),
        ({"mlp_sizes": 4}, "mlp_sizes: 4, must be a sequence of positive integers"),
        ({"eval_episodes": 2.5}, "eval_episodes: 2.5, must be an integer"),
        ({"num_levels": "4"}, "num_levels: '4', must be an integer"),
        ({"policy_lag": True}, "policy_lag: True, must be an integer"),
        ({"action_input": 2}, "action_input: 2, must be True or False"),
        ({"skip": "no"}, "skip: 'no', must be True or False"),
        ({"torso": "mlp"}, r"torso: 'mlp', must be a configuration of a torso, such as MLPTorsoConfig\(\)"),
        ({"objective": None}, "objective: None, must be an Objective"),
        ({"gradient_norm_clip": "x"}, "gradient_norm_clip: 'x', must be greater than 0, or None"),
        ({"momentum": "x"}, "momentum: 'x', must be from 0 to less than 1"),
        ({"final_learning_rate": -1.0}, "final_learning_rate: -1.0, must be at least 0"),
        ({"optimizer": "Adam"}, "optimizer: 'Adam', must be one of"),
    ],
)
def test_bad_arguments(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_what_is_no_world_is_refused():
    for world, message in (
        (None, r"^world: None, must be a world, such as GoalMaze\(\); it has no num_actions, .*, step$"),
        (GoalMaze, r"^world: .*, must be a world, such as GoalMaze\(\)$"),
        (Cue(), r"^world: .*; it has no max_steps, levels$"),
    ):
        with pytest.raises(ValueError, match=message):
            AgentExperiment(dataclasses.replace(CONFIG, world=world))


class NaNMaze(GoalMaze):
    """Its rewards are NaN."""

    def step(self, levels, state, action, decisions):
        state, result = super().step(levels, state, action, decisions)
        return state, result._replace(reward=result.reward * np.nan)


class GrowingMaze(GoalMaze):
    """Its observations are longer after a step."""

    def step(self, levels, state, action, decisions):
        state, result = super().step(levels, state, action, decisions)
        return state, result._replace(observation=tf.concat([result.observation] * 2, -1))


class WholeMaze(GoalMaze):
    """Its rewards are integers."""

    def step(self, levels, state, action, decisions):
        state, result = super().step(levels, state, action, decisions)
        return state, result._replace(reward=tf.cast(result.reward, tf.int32))


class CountingMaze(GoalMaze):
    """Its ends are numbers."""

    def step(self, levels, state, action, decisions):
        state, result = super().step(levels, state, action, decisions)
        return state, result._replace(terminated=tf.cast(result.terminated, tf.float32))


class BareMaze(GoalMaze):
    """Its results are dictionaries."""

    def step(self, levels, state, action, decisions):
        state, result = super().step(levels, state, action, decisions)
        return state, result._asdict()


class WrongMaze(GoalMaze):
    """Its observations are longer than it says."""

    def observe(self, state):
        return tf.concat([super().observe(state)] * 2, -1)


def test_worlds_that_break_their_contract(tmp_path):
    with pytest.raises(TrainingDivergedError, match="loss is nan at update 1"):
        train(AgentExperiment(dataclasses.replace(CONFIG, world=NaNMaze(side=5, max_steps=6))), tmp_path / "nan")
    for kind, message in (
        (GrowingMaze, r"observation: float32 \(3, 34\) after a step, must be float32 \(3, 17\)"),
        (WholeMaze, r"reward: int32 \(3,\) after a step, must be float32 \(3,\)"),
        (CountingMaze, r"terminated: float32 \(3,\) after a step, must be bool \(3,\)"),
        (BareMaze, r"result: dict without observation, .*, last_observation, must have observation, reward, "),
        (WrongMaze, r"observation: float32 \(34,\), must be float32 \(17,\)"),
    ):
        with pytest.raises(UpdateError, match=message):
            train(AgentExperiment(dataclasses.replace(CONFIG, world=kind(side=5, max_steps=6))), tmp_path / "shape")
        assert not (tmp_path / "shape").exists()


# ------------------------------------------------------------------------------------------------------ evaluation


def test_evaluations_are_of_unseen_levels():
    experiment = AgentExperiment(dataclasses.replace(CONFIG, world=BOX_WORLD, torso=ConvTorsoConfig()))
    training = {board.tobytes() for board in experiment.levels.board.numpy()}
    assert not training & {board.tobytes() for board in experiment.unseen_levels.board.numpy()}
    start = experiment.evaluation().carry[0].world
    levels = experiment.unseen_levels
    np.testing.assert_array_equal(start.board, levels.board)
    np.testing.assert_array_equal(start.player, levels.player)
    episodes = experiment.episodes()
    scores = experiment.evaluate()
    np.testing.assert_allclose(scores["episode_return"], episodes.episode_return.mean(), rtol=1e-6)
    assert scores == AgentExperiment(experiment.config).evaluate()


def test_a_world_without_success_has_no_share_of_it():
    experiment = AgentExperiment(CONFIG)
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), {}, experiment.initial_carry())
    assert "episode_return" in metrics
    assert "solved" not in {**metrics, **experiment.evaluate()}


def test_random_policies_draw_all_actions_equally_often():
    experiment = AgentExperiment(dataclasses.replace(CONFIG, eval_episodes=2_000))
    found = experiment.result(experiment.evaluate())["random_episode_return"]
    maze, rng, returns = experiment.world, np.random.default_rng(0), []
    walls, free = maze.walls(), maze.free_cells()
    for _ in range(2_000):
        total, player, goal = 0.0, (2, 2), divmod(rng.choice(free), 5)
        for action in rng.integers(4, size=6):
            move = ((-1, 0), (1, 0), (0, -1), (0, 1))[action]
            target = player[0] + move[0], player[1] + move[1]
            total -= 0.1 * walls[target]
            player = player if walls[target] else target
            if player == goal:
                total, player = total + 10, divmod(rng.choice(free), 5)
        returns.append(total)
    error = np.std(returns) / 2_000**0.5
    assert abs(found - np.mean(returns)) < 6 * error


# ---------------------------------------------------------------------------------------------------------- bundles


@pytest.mark.slow
def test_a_bundle_trains_as_tensorflow_does(tmp_path):
    config = dataclasses.replace(
        CONFIG, world=BOX_WORLD, torso=ConvTorsoConfig(), num_updates=4, log_every=1, num_levels=200
    )
    bundle = make_bundle(AgentExperiment(config))
    levels = [leaf for leaf in bundle.programs["update"].arguments if leaf.name.startswith("constants/")]
    assert (200, 7, 7) in [leaf.shape for leaf in levels]  # the pool is an argument
    write_bundle(bundle, tmp_path / "bundle")
    done = aot("run", tmp_path / "bundle", "--folder", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    experiment = AgentExperiment(config)
    np.testing.assert_allclose(losses(tmp_path / "run"), tensorflow_losses(experiment, 4), rtol=1e-4)
    found, expected = RunFolder(tmp_path / "run").result()["ours"], experiment.evaluate()
    np.testing.assert_allclose([found[name] for name in expected], [*expected.values()], rtol=1e-4)


# ------------------------------------------------------------------------------------------------------------- play


@pytest.mark.parametrize("number", [-1, "1", 0.5])
def test_a_plays_number_is_no_negative_integer(number):
    with pytest.raises(ValueError, match=f"^number: {number!r}, must be"):
        AgentExperiment(dataclasses.replace(CONFIG, core=None)).play(number)


@pytest.mark.parametrize(
    "world", [BOX_WORLD, GoalMaze(side=5, max_steps=6), MiniPacman(max_steps=6)], ids=lambda w: type(w).__name__
)
def test_a_play_is_an_episode_of_the_world(world):
    experiment = AgentExperiment(dataclasses.replace(CONFIG, world=world))
    played, again, other = experiment.play(), experiment.play(), experiment.play(1)
    steps = len(played.actions)
    assert steps == 6 if isinstance(world, GoalMaze) else 1 <= steps <= 6
    assert played.pictures.shape[0] == steps + 1
    assert played.pictures.dtype == np.uint8
    assert played.rewards.shape == played.values.shape == (steps,)
    np.testing.assert_array_equal(played.pictures, world.picture(played.states))
    np.testing.assert_array_equal(played.pictures, again.pictures)
    assert not np.array_equal(played.pictures[0], other.pictures[0])
    if isinstance(world, GoalMaze):
        np.testing.assert_array_equal(played.states.reward[1:], played.rewards)
        np.testing.assert_array_equal(played.states.steps, np.arange(7))


def test_only_grid_worlds_are_played():
    with pytest.raises(ValueError, match=r"world: Cue, must be a tfmem\.envs\.grid\.base\.GridWorld"):
        play(None, Cue(), (), 0)
