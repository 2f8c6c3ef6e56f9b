"""Exploration: the agent with weight 0 is the plain one, the localization loss, baselines, evaluation, figures."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from reproductions.multigrid import exploration
from reproductions.multigrid.explorers import Frontier, Spiral
from reproductions.multigrid.figures import exploration_figure, mapping_figure
from tests.aot.experiments import tensorflow_losses
from tests.aot.support import aot, losses
from tests.figures import assert_tidy
from tests.support import first_of
from tfmem.aot.bundle import write_bundle
from tfmem.aot.lowering import make_bundle
from tfmem.cores.config import ConvLSTMConfig, DNCConfig, LSTMConfig
from tfmem.envs.grid.mapping_maze import Decisions, MappingMaze
from tfmem.losses.localization import localization_loss, localization_scores
from tfmem.rl import AgentExperiment
from tfmem.rl.agent import RandomAgent
from tfmem.tasks.mapping import spiral_walk
from tfmem.training.run_folder import RunFolder

SMOKE = exploration.PRESETS["smoke"]
WORLD = MappingMaze(side=11, max_steps=60, target_size=12, centred=True)


def updates(experiment, number):
    """Eagerly, which takes less time than to trace so few."""
    carry = experiment.initial_carry()
    for update in range(number):
        carry, metrics = experiment.train_step(tf.constant(update, tf.int64), {}, carry)
    return carry, {name: float(value) for name, value in metrics.items()}


def test_weight_0_is_the_plain_agent():
    """`AgentExperiment` itself, with the same cell, from the same weights."""
    config = dataclasses.replace(SMOKE, localization_weight=0.0)
    exploring, plain = exploration.Experiment(config), AgentExperiment(config)
    for experiment in (exploring, plain):
        assert experiment.learner.auxiliary is None
    plain.model.set_weights(exploring.model.get_weights())
    (_, a), (_, b) = (updates(experiment, 2) for experiment in (exploring, plain))
    assert a == b
    for x, y in zip(exploring.model.get_weights(), plain.model.get_weights(), strict=True):
        np.testing.assert_array_equal(x, y)


def test_too_few_mazes_are_an_error_before_a_run():
    with pytest.raises(ValueError, match=r"^num_levels: 5000, must leave mazes for evaluations"):
        exploration.Experiment(dataclasses.replace(SMOKE, num_levels=5000))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("core", [SMOKE.core, LSTMConfig(units=4)], ids=["multigrid", "lstm"])
def test_the_localization_loss_is_mappings(core, reduction):
    objective = dataclasses.replace(SMOKE.objective, reduction=reduction)
    vector = {} if core is SMOKE.core else exploration.VECTOR
    config = dataclasses.replace(SMOKE, core=core, objective=objective, localization_weight=0.5, **vector)
    experiment = exploration.Experiment(config)
    (actor, *_), metrics = updates(experiment, 1)
    _, trajectory = experiment.learner._act(tf.constant(1, tf.int64), experiment.levels, actor, (), *_draws(config))
    _, extra = experiment.learner.loss(trajectory)
    e = trajectory.entries
    output, _ = experiment.model.unroll(e.observation, e.action, e.reward, e.done, trajectory.core_state)
    logits = experiment.model.cell.locate(e.labels.query, output.core)
    # entries 0 ... T - 1, mean over the map's 36 cells
    expected = 0.5 * localization_loss(logits[:-1], e.labels.target[:-1]) / 36
    if reduction == "mean":
        expected /= config.unroll_length * config.num_worlds
    np.testing.assert_allclose(extra.loss, expected, rtol=1e-5)
    assert metrics["auxiliary_loss"] > 0


def _draws(config):
    from tfmem.rl.learner import draws

    return draws(config.seed, tf.constant(1, tf.int64), config.unroll_length, config.num_worlds)


def test_localization_trains_the_writer_and_the_reader():
    config = dataclasses.replace(SMOKE, learning_rate=1e-2)
    for weight in (0.0, 1.0):
        experiment = exploration.Experiment(dataclasses.replace(config, localization_weight=weight))
        network = experiment.model.cell.network
        parts = {"writer": network.writer, "reader": network.readers[0], "decoder": network.decoders[0]}
        before = {name: part.get_weights() for name, part in parts.items()}
        updates(experiment, 2)
        changed = {
            name: any((a != b).any() for a, b in zip(part.get_weights(), before[name], strict=True))
            for name, part in parts.items()
        }
        assert changed == {"writer": True, "reader": weight > 0, "decoder": weight > 0}


# --------------------------------------------------------------------------------------------------------- baselines


def walk(explorer, world, steps, batch_size=4):
    """Places of an explorer, [T + 1, B], and the levels' cells."""
    levels = world.levels(batch_size, 3)
    state, observation = world.reset(levels, Decisions(tf.range(batch_size), tf.range(batch_size)))
    own, done, places = explorer.initial_state(batch_size), tf.ones([batch_size], tf.bool), [state.player.numpy()]
    zeros = tf.zeros([batch_size], tf.int32)
    for _ in range(steps):
        output, own = explorer.step(observation, zeros, tf.cast(zeros, tf.float32), done, own)
        action = tf.argmax(output.logits, -1, output_type=tf.int32)
        state, result = world.step(levels, state, action, Decisions(tf.range(batch_size), zeros))
        observation, done = result.observation, result.truncated
        places.append(state.player.numpy())
    return np.array(places), levels.cells.reshape(batch_size, -1), state


def test_the_spiral_is_mappings_where_no_wall_is():
    world = MappingMaze(side=11, max_steps=100, target_size=12, centred=True, density=0.0)
    places, cells, _ = walk(Spiral(world), world, 80)
    assert cells.reshape(-1, 11, 11)[:, 1:-1, 1:-1].sum() == 0
    expected = spiral_walk(11) @ [11, 1]
    np.testing.assert_array_equal(places, np.tile(expected[:, None], 4))


def test_the_frontier_explorer_takes_shortest_ways_and_sees_all():
    """Each walk to a frontier is as short as breadth-first search in what was seen says; in the end all is seen."""
    world = dataclasses.replace(WORLD, max_steps=400)
    places, cells, state = walk(Frontier(world), world, 150)
    levels = type(world.levels(1, 0))(cells.reshape(-1, 11, 11).astype(np.int8))
    np.testing.assert_array_equal(world.seen(state).numpy().sum(1), world.num_visible(levels))
    patch = [row * 11 + column for row in (-1, 0, 1) for column in (-1, 0, 1)]
    for item in range(4):
        seen = set()
        for t in range(150):
            here = int(places[t, item])
            seen |= {here + offset for offset in patch}
            if len(seen) == world.num_visible(levels)[item]:
                break
            assert steps_to_frontier(places[t + 1, item], seen, cells[item], patch) == (
                steps_to_frontier(here, seen, cells[item], patch) - 1
            )
        else:
            raise AssertionError("not all seen")


def steps_to_frontier(place, seen, cells, patch):
    distance, waiting = {int(place): 0}, [int(place)]
    for cell in waiting:  # grows
        if not seen.issuperset(cell + offset for offset in patch):
            return distance[cell]
        for beside in (cell - 11, cell + 11, cell - 1, cell + 1):
            if beside in seen and not cells[beside] and beside not in distance:
                distance[beside] = distance[cell] + 1
                waiting.append(beside)
    raise AssertionError("no frontier")


# -------------------------------------------------------------------------------------------------------- evaluation


@pytest.mark.parametrize("unroll_length", first_of([60, 7]))
def test_seen_cells_of_an_evaluation(unroll_length):
    """The shares equal those of the states, whatever the evaluation's steps."""
    config = dataclasses.replace(
        SMOKE,
        world=WORLD,
        core=LSTMConfig(units=2),
        unroll_length=unroll_length,
        **exploration.VECTOR,
    )
    experiment = exploration.Experiment(config)
    curve = experiment.curve(Frontier(WORLD))
    levels = experiment.unseen_levels
    state, observation = WORLD.reset(levels, Decisions(tf.range(4), tf.range(4)))
    explorer, done = Frontier(WORLD), tf.ones([4], tf.bool)
    own, shares = explorer.initial_state(4), []
    for _ in range(60):
        output, own = explorer.step(observation, None, None, done, own)
        outcome = WORLD.advance(
            levels, state, tf.argmax(output.logits, -1, output_type=tf.int32), WORLD.draw([0, 0], 4)
        )
        state, observation, done = outcome.state, WORLD.observe(outcome.state), tf.zeros([4], tf.bool)
        shares.append(WORLD.seen(state).numpy().sum(1) / WORLD.num_visible(levels).numpy())
    np.testing.assert_allclose(curve.seen, np.mean(shares, 1), rtol=1e-5)
    first = [next((t + 1 for t in range(60) if share[t] >= 0.9), 60) for share in np.array(shares).T]
    np.testing.assert_allclose(curve.steps_to_90, np.mean(first))
    assert curve.seen[-1] > 0.85 > 0.5 > experiment.curve(RandomAgent(4)).seen[-1]


def test_scores_of_queries():
    experiment = exploration.Experiment(dataclasses.replace(SMOKE, unroll_length=3))  # 8 steps: the last is cut
    (_, _, totals), scores = experiment.evaluation().run(lambda number: {})
    assert totals.targets.rows == 8 * experiment.config.eval_episodes
    assert scores["f_score"] == pytest.approx(float(localization_scores(totals.counts).f_score))
    assert totals.counts.true_positive + totals.counts.false_negative == tf.reduce_sum(totals.targets.cells)
    result = experiment.result(experiment.evaluate())
    assert result["parameters"] == experiment.model.count_params()
    assert 9 / 49 < result["random_seen"] < 1
    assert 0 < result["map_prior_f_score"] < 1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["paper", "demo"])
def test_cores_have_as_many_parameters(kind):
    sizes = []
    for name in (kind, f"{kind}_lstm", f"{kind}_dnc", f"{kind}_conv_lstm"):
        config = dataclasses.replace(exploration.PRESETS[name], eval_episodes=2, num_levels=2, num_worlds=2)
        sizes.append(exploration.Experiment(config).model.count_params())
    assert max(abs(size / sizes[0] - 1) for size in sizes) < 0.02, sizes


def test_an_agent_without_memory_and_wrong_arguments():
    config = dataclasses.replace(SMOKE, core=None, localization_weight=0.0, **exploration.VECTOR)
    assert "f_score" not in exploration.Experiment(config).evaluate()
    for changes, message in (
        ({"core": None}, "localization_weight: 1.0, must be 0 without a core"),
        ({"localization_weight": -1.0}, "localization_weight: -1.0, must be at least 0"),
        ({"world": WORLD}, "target_size: 12, must be 6, the side of the network's finest grid"),
        ({"locator_sizes": (0,)}, r"locator_sizes: \(0,\), must be at least 1 each"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(SMOKE, **changes)


@pytest.mark.long
def test_a_bundle_trains_as_tensorflow_does(tmp_path):
    config = dataclasses.replace(SMOKE, num_updates=4, log_every=1)
    write_bundle(make_bundle(exploration.Experiment(config)), tmp_path / "bundle")
    done = aot("run", tmp_path / "bundle", "--folder", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    experiment = exploration.Experiment(config)
    np.testing.assert_allclose(losses(tmp_path / "run"), tensorflow_losses(experiment, 4), rtol=1e-4)
    found, expected = RunFolder(tmp_path / "run").result()["ours"], experiment.evaluate()
    np.testing.assert_allclose([found[name] for name in expected], [*expected.values()], rtol=1e-4)


# ----------------------------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    "core", [SMOKE.core, DNCConfig(memory_size=4, word_size=3, hidden_size=4), ConvLSTMConfig(filters=3)]
)
def test_frames_follow_an_episode(core):
    vector = exploration.VECTOR if isinstance(core, DNCConfig) else {}
    experiment = exploration.Experiment(dataclasses.replace(SMOKE, core=core, **vector))
    frames = list(experiment.frames())
    assert len(frames) == 8
    played = experiment.play()
    for t, frame in enumerate(frames):
        cells = played.states.cells[t].reshape(7, 7)
        row, column = frame.path[-1]
        assert len(frame.path) == t + 1
        np.testing.assert_array_equal(frame.view, cells[row - 1 : row + 2, column - 1 : column + 2])
        assert frame.target[tuple(np.divmod(played.states.query[t], 7))] == 1
        assert frame.seen[row - 1 : row + 2, column - 1 : column + 2].all()
        assert 0 < frame.prediction.min() <= frame.prediction.max() < 1
        for row, column in np.argwhere(frame.target):
            np.testing.assert_array_equal(frame.query, cells[row - 1 : row + 2, column - 1 : column + 2])
    assert len(frames[0].memory) == (2 if core is SMOKE.core else 0)
    assert_tidy(mapping_figure(frames[-1]))


def test_figure_of_exploration():
    figure = exploration_figure({"agent": np.linspace(0.2, 1, 9), "random": np.linspace(0.2, 0.4, 9)})
    assert_tidy(figure)
    assert [line.get_label() for line in figure.axes[0].lines] == ["agent", "random"]
