"""Agents' experiments: starting values and loss of the maze as published, scores by level, figures of several runs."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from reproductions import GENERAL, load_experiment
from reproductions.__main__ import main
from reproductions.agents import draw_learning_curves
from reproductions.metalearned.figures import maze_episode_figure
from reproductions.metalearned.maze import known_goal_return
from tfmem import plotting
from tfmem.envs.grid.goal_maze import GoalMaze
from tfmem.optimizers import SonnetAdam
from tfmem.training.run_folder import RunFolder

MAZE, BOX_WORLD, PACMAN = "metalearned/maze", "relational/box_world", "relational/mini_pacman"


def test_an_agent_may_build_stairs_through_gymnasium():
    preset = load_experiment("gymnasium", GENERAL).PRESETS["building"]
    world = preset.world
    assert (world.observation_shape, world.num_actions, world.max_steps) == ((16, 16, 3), 6, 100)
    state, _ = world.reset((), world.draw([0, 0], 2))
    for action in (4, 5):
        state, result = world.step((), state, tf.fill([2], action), world.draw([1, 1], 2))
    assert result.observation.shape == (2, 16, 16, 3)
    assert not result.reward.numpy().any()


def made(name, preset, **changes):
    module = load_experiment(name)
    config = dataclasses.replace(module.PRESETS[preset], eval_episodes=4, num_levels=4, **changes)
    return module.Experiment(config)


@pytest.mark.parametrize("preset", ["paper_plastic", "paper_homogeneous"])
def test_plastic_agents_of_the_maze_start_as_published(preset):
    experiment = made(MAZE, preset)
    agent, cell = experiment.model, experiment.model.cell
    assert (cell.units, cell.rule, cell.homogeneous) == (200, "oja", preset == "paper_homogeneous")
    for variable, low, high in (
        (cell.w, 0, 0.01),
        (cell.kernel, -(17**-0.5), 17**-0.5),
        (cell.bias, -(17**-0.5), 17**-0.5),
        (agent.policy.kernels[0], -(200**-0.5), 200**-0.5),
        (agent.policy.biases[0], -(200**-0.5), 200**-0.5),
        (agent.baseline.kernels[0], -(200**-0.5), 200**-0.5),
    ):
        values = variable.numpy()
        assert low <= values.min()
        assert values.max() <= high
        assert values.std() > 0.1 * (high - low)  # 0.29 of a uniform distribution
    alpha = cell.alpha.numpy()
    assert alpha == np.float32(0.01) if alpha.ndim == 0 else (alpha.min() >= 0 and alpha.max() <= 0.01)
    assert cell.eta.numpy() == np.float32(0.01)
    optimizer = experiment.learner.optimizer
    assert isinstance(optimizer, SonnetAdam)
    assert (float(optimizer.learning_rate), optimizer.epsilon) == (np.float32(1e-4), 1e-4)
    assert optimizer.global_clipnorm is None


def test_an_update_of_the_maze_is_an_episode():
    experiment = made(MAZE, "paper_plastic", jit_compile=False)
    _, metrics = experiment.train_step(tf.constant(0, tf.int64), {}, experiment.initial_carry())
    assert metrics["episodes"] == 1
    assert metrics["episode_length"] == 250
    assert metrics["learning_rate"] == np.float32(1e-4)


def test_box_worlds_scores_are_also_of_paths_and_distractors():
    experiment = made(BOX_WORLD, "demo", jit_compile=False)
    levels, solved = experiment.unseen_levels, np.array([1.0, 0.0, 1.0, 1.0])
    experiment.episodes = lambda: type("Episodes", (), {"solved": solved})
    result = experiment.result({"episode_return": 0.0})
    for name, values in (("path", levels.path_length.numpy()), ("distractors", levels.num_distractors.numpy())):
        for value in np.unique(values):
            assert result[f"solved_{name}_{value}"] == solved[values == value].mean()


@pytest.mark.parametrize("preset", ["paper", "paper_full"])
def test_lstms_of_mini_pacman_have_as_many_weights_as_the_relational_memory(preset):
    sizes = [made(PACMAN, name).model.cell.count_params() for name in (preset, f"{preset}_lstm")]
    assert abs(sizes[1] / sizes[0] - 1) < 0.01


def test_every_goal_of_the_maze_is_equally_likely():
    for config in load_experiment(MAZE).PRESETS.values():
        assert config.num_levels == config.world.num_levels
        goals = np.bincount(config.world.levels(config.eval_episodes, 7).goal)
        assert len(set(goals[goals > 0])) == 1 or config.eval_episodes < config.num_levels


def test_runs_are_compared_evaluated_and_played(tmp_path, capsys):
    for seed in (1, 2):
        run = ["run", MAZE, "--preset", "smoke", "--seed", str(seed), "--log-every", "1"]
        assert main([*run, "--folder", str(tmp_path / f"seed{seed}")]) == 0
    assert main(["compare", str(tmp_path / "seed1"), str(tmp_path / "seed2"), "--out", str(tmp_path / "out")]) == 0
    for name in ("episodes", "steps", "seconds"):
        assert (tmp_path / f"out/episode_return_by_{name}.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "seed1/result.json").read_text())["ours"].keys() >= {"random_episode_return"}
    assert "175" in capsys.readouterr().out

    assert main(["evaluate", str(tmp_path / "seed1")]) == 0
    assert main(["evaluate", str(tmp_path / "seed1"), "--episodes", "300"]) == 0
    few, many = capsys.readouterr().out.split("metalearned/maze after")[1:]
    assert few != many
    assert main(["evaluate", str(tmp_path / "seed1"), "--episodes", "0"]) == 2
    assert "eval_episodes: 0, must be at least 1" in capsys.readouterr().err

    assert main(["play", str(tmp_path / "seed1"), "--out", str(tmp_path / "play"), "--episode", "3"]) == 0
    assert "in 6 steps" in capsys.readouterr().out
    with Image.open(tmp_path / "play/episode_3.gif") as image:
        assert image.size == (320, 320)
    assert cv2.VideoCapture(str(tmp_path / "play/episode_3.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 7
    for wrong, message in (
        (["--fps", "0"], "fps: 0, must be from 1 to 50"),
        (["--episode", "-1"], "episode: -1, must"),
    ):
        assert main(["play", str(tmp_path / "seed1"), *wrong]) == 2
        assert message in capsys.readouterr().err


def test_only_agents_have_episodes(tmp_path, capsys):
    run = str(tmp_path / "run")
    assert main(["run", "metalearned/double_copy", "--preset", "smoke", "--folder", run]) == 0
    assert main(["evaluate", run, "--episodes", "3"]) == 2
    assert "eval_episodes: 3, must not be given: metalearned/double_copy has no such setting" in capsys.readouterr().err
    assert main(["play", run]) == 2
    assert "must be the run of an agent; metalearned/double_copy has none" in capsys.readouterr().err


def test_wrong_arguments_are_refused_in_one_line(capsys):
    for options, message in (
        (["--num-worlds", "0"], "num_worlds: 0, must be at least 1"),
        (["--world.side", "8"], "side: 8, must be odd; see `reproduce run metalearned/maze --help`"),
        (
            ["--objective.discount", "2"],
            "discount: 2.0, must be from 0 to 1; see `reproduce run metalearned/maze --help`",
        ),
    ):
        assert main(["run", MAZE, "--preset", "smoke", *options]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"reproduce: error: {message}" in said


def test_agents_without_memory_and_with_any_core_by_name(tmp_path, monkeypatch):
    run = ["run", BOX_WORLD, "--preset", "smoke", "--num-updates", "4", "--folder"]
    for name, core in (("none", ["core:none"]), ("lstm", ["core:lstm", "--core.units", "4"])):
        assert main([*run, str(tmp_path / name), *core]) == 0
    kinds = [json.loads((tmp_path / name / "config.json").read_text())["config"]["core"] for name in ("none", "lstm")]
    assert kinds[0] is None
    assert kinds[1]["type"] == "LSTMConfig"
    drawn, figure = [], plotting.curves_figure

    def curves_figure(curves, *names, **how):
        drawn.append({*curves})
        return figure(curves, *names, **how)

    monkeypatch.setattr(plotting, "curves_figure", curves_figure)
    folders = [RunFolder(tmp_path / name) for name in ("none", "lstm")]
    draw_learning_curves(folders, tmp_path, "episode_return", "return")
    assert drawn == [{"smoke, core=none", "smoke, core=LSTM(units=4)"}] * 3  # without the num_updates that both share


def test_the_maze_figure_joins_ways_at_the_goal():
    experiment = made(MAZE, "smoke")
    world = experiment.world
    player, goal = np.array([12, 7, 16, 11, 11]), np.full(5, 6)
    states = type("State", (), {"player": player, "goal": goal})
    rewards = np.array([0.0, 10.0, 0.0, -0.1])
    figure = maze_episode_figure(type("Play", (), {"states": states, "rewards": rewards}), world)
    first, later, _ = figure.axes
    ways = [
        [line.get_xydata().tolist() for line in axes.lines if len(line.get_xydata()) > 1] for axes in (first, later)
    ]
    assert ways == [[[[2, 2], [2, 1], [1, 1]]], [[[1, 3], [1, 2], [1, 2]]]]


@pytest.mark.parametrize(("side", "steps"), [(5, 7), (7, 30)])
def test_no_policy_has_more_than_the_known_goal_return(side, steps):
    """Value iteration over all actions in numpy."""
    world, returns = GoalMaze(side=side, max_steps=steps), []
    walls, free = world.walls().reshape(-1), world.free_cells()
    for goal in free:
        values = np.zeros(side**2)
        for _ in range(steps):
            moved = free[:, None] + np.array([-side, side, -1, 1])
            blocked = walls[moved]
            moved = np.where(blocked, free[:, None], moved)
            found = moved == goal
            best = (-0.1 * blocked + 10.0 * found + np.where(found, values[free].mean(), values[moved])).max(axis=1)
            values[free] = best
        returns.append(values[side**2 // 2])
    np.testing.assert_allclose(known_goal_return(world), np.mean(returns), rtol=1e-3)
