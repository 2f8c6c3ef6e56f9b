"""SimCore experiments: files of episodes, what trains and what does not, the numbers beside the scores, pictures."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from reproductions.belief_states import building, comparison, random_city, terrain
from reproductions.belief_states.simcore import DECODED
from tfmem.aot.bundle import open_source
from tfmem.cores.config import KanervaConfig
from tfmem.data import episode_cache
from tfmem.envs.building import PLACE
from tfmem.envs.exploration import ExploringPolicy, collect
from tfmem.training import compiled_updates, config_fields, stacked_batches
from tfmem.training.run_folder import RunFolder, RunFolderError

SMOKE = random_city.PRESETS["smoke"]


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFMEM_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def experiment():
    return random_city.Experiment(SMOKE)


def update(experiment, number=0):
    batch = tf.nest.map_structure(tf.constant, experiment.batch(number))
    return experiment.train_step(tf.constant(number, tf.int64), batch, ())[1]


def changed(module, before):
    return [bool(np.any(v != b)) for v, b in zip(module.trainable_variables, before, strict=True)]


def values(module):
    return [v.numpy() for v in module.trainable_variables]


def test_episodes_are_made_once_and_made_anew_for_other_arguments(experiment, monkeypatch):
    name = experiment.data_source()[1]["file"]
    made = []
    monkeypatch.setattr(episode_cache, "write_episodes", lambda path, **arguments: made.append(arguments))
    assert experiment.data_source()[1]["file"] == name
    assert made == []
    assert (episode_cache.episodes_folder() / name).exists()
    other = random_city.Experiment.data_source(_like(experiment, num_boxes=2))[1]["file"]
    assert other != name
    assert made[0]["arguments"]["num_boxes"] == 2
    looking = random_city.Experiment.data_source(_like(experiment, look=0.5))[1]["file"]
    assert looking not in (name, other)
    assert made[1]["policy"].look == 0.5
    assert experiment.data_source("evaluation")[1]["file"] != name


def _like(experiment, **changes):
    like = object.__new__(type(experiment))
    like.config = dataclasses.replace(experiment.config, **changes)
    return like


def test_the_bundle_reads_what_the_run_reads(experiment):
    fed, own = open_source(experiment.data_source()).batch(3), experiment.batch(3)
    assert set(fed) == set(own) == {"frames", "actions", "maps", "positions"}
    for name in own:
        np.testing.assert_array_equal(fed[name], own[name])
    assert own["frames"].shape == (SMOKE.unroll_length, SMOKE.batch_size, 8, 8, 3)


def test_actions_are_those_that_led_to_the_frames(experiment):
    batch = experiment.batch(0)
    frames, actions = experiment._inputs(batch)
    assert not actions[0].numpy().any()
    np.testing.assert_array_equal(np.argmax(actions[1:], -1), batch["actions"])
    assert frames.numpy().max() <= 1
    # Positions show it: after a turn (2, 3) the agent is where it was.
    moved = np.any(np.diff(batch["positions"], axis=0) != 0, -1)
    assert moved.any()
    assert not moved[np.argmax(actions[1:], -1) >= 2].any()


def test_the_terrains_agent_is_slower_than_the_citys():
    for preset in ("paper", "demo"):
        assert terrain.PRESETS[preset].speed < random_city.PRESETS[preset].speed


@pytest.mark.parametrize("module", [random_city, terrain])
def test_the_agent_of_a_demo_walks(module):
    config = module.PRESETS["demo"]
    like = object.__new__(module.Experiment)
    like.config = config
    world = like.world()
    env = gymnasium.make_vec(world.id, num_envs=32, **world.arguments)
    positions = collect(env, ExploringPolicy(config.look), config.unroll_length - 1, seed=0).positions
    moves = np.count_nonzero(np.any(np.diff(positions, axis=0) != 0, -1), 0)
    assert moves.mean() > 3
    assert np.mean(moves == 0) < 0.15


def test_the_builder_of_a_demo_builds_and_stays_in_its_level():
    like = object.__new__(building.Experiment)
    like.config = building.PRESETS["demo"]
    world = like.world()
    env = gymnasium.make_vec(world.id, num_envs=32, **world.arguments)
    data = collect(env, world.policy, like.config.unroll_length - 1, seed=0)
    assert not data.resets[1:].any()
    assert world.num_actions == env.single_action_space.n == 6
    climbed = np.array([level.heights[level.cell] for level in env.worlds])
    assert data.frames.shape[2:] == (16, 16, 3)
    assert np.mean((data.actions == PLACE).any(axis=0)) > 0.9
    start = round(building.Experiment.rollouts_at * (like.config.unroll_length - 1))
    assert np.mean((data.actions[start:] == PLACE).any(axis=0)) > 0.8  # Figure 13 shows it
    assert (climbed > 0).any()


def test_building_takes_the_actions_of_its_world():
    experiment = building.Experiment(building.PRESETS["smoke"])
    batch = experiment.batch(0)
    _, actions = experiment._inputs(batch)
    assert actions.shape == (building.PRESETS["smoke"].unroll_length, building.PRESETS["smoke"].batch_size, 6)
    np.testing.assert_array_equal(np.argmax(actions[1:], -1), batch["actions"])
    assert_all_moves(experiment)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"random": 2.0}, r"random: 2\.0, must be"),
        ({"size": 6}, "size: 6, must be odd"),
        ({"cliff": 9}, "cliff: 9, must be"),
        ({"num_blocks": 0}, "num_blocks: 0, must be"),
    ],
)
def test_bad_building_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(building.PRESETS["smoke"], **change)


def test_baselines(experiment):
    train, unseen = (experiment.stream(split).file for split in ("train", "evaluation"))
    mean = np.mean([train[i]["maps"] / 255.0 for i in range(len(train))], (0, 1))
    maps = np.stack([unseen[i]["maps"] / 255.0 for i in range(len(unseen))], 1)
    told = experiment.baselines()
    np.testing.assert_allclose(told["mean_map_mse"], np.mean((maps - mean) ** 2), rtol=1e-6)
    np.testing.assert_allclose(told["mean_map_mse_last"], np.mean((maps[-1] - mean) ** 2), rtol=1e-6)
    assert told["mean_map_mse"] > 0

    def cells(file):
        places = np.stack([file[i]["positions"] for i in range(len(file))]) / SMOKE.side + 0.5
        rows, columns = np.moveaxis(
            np.clip((places * SMOKE.cells_per_side).astype(int), 0, SMOKE.cells_per_side - 1), -1, 0
        )
        return rows * SMOKE.cells_per_side + columns

    most = np.bincount(cells(train).ravel()).argmax()
    assert told["most_frequent_cell_accuracy"] == pytest.approx(np.mean(cells(unseen) == most))


def assert_all_moves(experiment):
    """Two updates move all variables; returns their metrics."""
    modules = [experiment.model, *experiment.probes]
    before = [values(module) for module in modules]
    metrics = [update(experiment, n) for n in range(2)]
    names = [v.name for module in modules for v in module.trainable_variables]
    moved = [m for module, b in zip(modules, before, strict=True) for m in changed(module, b)]
    assert {name for name, m in zip(names, moved, strict=True) if not m} <= {"log_w_stddev"}
    assert all(np.isfinite(float(value)) for metric in metrics for value in metric.values())
    return metrics


def test_an_update_moves_all_there_is():
    kanerva = KanervaConfig(hidden_size=8, memory_size=2, word_size=3)
    experiment = terrain.Experiment(dataclasses.replace(terrain.PRESETS["smoke"], core=kanerva))
    metrics = assert_all_moves(experiment)
    for name, prefix in (("model", ""), ("map_model", "map_samples_")):  # the errors are still too large
        assert experiment.gecos[name].multiplier() > metrics[0][f"{prefix}multiplier"]


def test_the_deterministic_model_minimises_the_error():
    metrics = assert_all_moves(random_city.Experiment(dataclasses.replace(SMOKE, model="deterministic")))
    assert "kl_nats" not in metrics[0]
    told = {name: float(value) for name, value in metrics[0].items()}
    expected = told["error_per_pixel"] * 8 * 8 * 3 + told["map_mse"] + told["position_loss"]
    assert told["loss"] == pytest.approx(expected, rel=1e-5)


def test_updates_with_a_large_memory():
    """Sizes where TensorFlow's memory optimizer starts, which broke gradients of loops; see `tfmem.recurrence`."""
    small = {"unroll_length": 40, "batch_size": 4, "frame_size": 16, "num_draw_steps": 1}
    few = {"model": "deterministic", "num_episodes": 8, "eval_episodes": 8}
    paper = random_city.PRESETS["paper_rma"]
    core = dataclasses.replace(paper.core, hidden_size=16)
    experiment = random_city.Experiment(dataclasses.replace(paper, core=core, **small, **few))
    batch = tf.nest.map_structure(tf.constant, stacked_batches(experiment, 0, 1))
    update = compiled_updates(experiment, 1)
    for number in range(2):  # the first left a temporary variable behind
        _, metrics = update(tf.constant(number, tf.int64), batch, ())
        assert np.isfinite(metrics["loss"])


def test_an_untrained_core_stays_as_it_is():
    experiment = random_city.Experiment(dataclasses.replace(SMOKE, train_core=False))
    core, decoder = values(experiment.model), values(experiment.map_decoder)
    metrics = [update(experiment, n) for n in range(2)]
    assert not any(changed(experiment.model, core))
    assert all(changed(experiment.map_decoder, decoder))
    assert "error_per_pixel" not in metrics[0]
    told = experiment.evaluate()
    assert told["map_mse"] > 0
    assert "error_per_pixel" not in told


def test_no_probe_teaches_the_beliefs():
    """Nor does the model of maps: without SimCore's loss no gradient reaches the belief network."""
    experiment = terrain.Experiment(dataclasses.replace(terrain.PRESETS["smoke"], train_core=False))
    batch = tf.nest.map_structure(tf.constant, experiment.batch(0))
    with tf.GradientTape() as tape:
        loss = experiment._output(batch, tf.constant([0, 0]), training=True).loss
    core, probes = experiment.model.trainable_variables, experiment._trained()
    gradients = tape.gradient(loss, [*core, *probes])
    assert all(gradient is None for gradient in gradients[: len(core)])
    assert any(gradient is not None for gradient in gradients[len(core) :])


def test_scores_are_those_of_all_unseen_episodes(experiment):
    file = experiment.stream("evaluation").file
    whole = {k: np.stack([file[i][k] for i in range(len(file))], 1) for k in episode_cache.TRAJECTORY_KEYS}
    frames, actions = experiment._inputs(whole)
    beliefs = experiment.model.belief(frames, actions).beliefs
    squares = np.square(experiment.map_decoder(beliefs) - whole["maps"] / 255.0).mean((2, 3, 4))
    told = experiment.evaluate()
    np.testing.assert_allclose(told["map_mse"], squares.mean(), rtol=1e-5)
    np.testing.assert_allclose(told["map_mse_last"], squares[-1].mean(), rtol=1e-5)


def test_comparison_of_runs(experiment, tmp_path):
    for number, kappa in enumerate([1e-3, 1e-2]):
        folder = RunFolder(tmp_path / str(number))
        config = config_fields(dataclasses.replace(SMOKE, kappa=kappa, seed=number))
        folder.claim({"experiment": experiment.name, "preset": None, "config": config})
        folder.figures.mkdir(parents=True, exist_ok=True)
        logged = ("loss", "map_mse", "error_per_pixel", "multiplier", "kl_nats")
        for n in (2, 4):
            folder.append_metrics(n, {f"train/{name}": 1.0 / n for name in logged})
        experiment.figures(folder.figures)
        folder.write_result({"ours": {"map_mse": 0.1}})
        folder.release()
        with np.load(folder.figures / DECODED) as arrays:  # along trajectories of the whole evaluation
            np.testing.assert_allclose(arrays["errors"].mean(), experiment.evaluate()["map_mse"], rtol=1e-5)
            baseline = experiment.baselines()["mean_map_mse"]
            np.testing.assert_allclose(arrays["mean_map_errors"].mean(), baseline, rtol=1e-6)
    (tmp_path / "out").mkdir()
    pictures = comparison.compare([RunFolder(tmp_path / name) for name in ("0", "1")], tmp_path / "out")
    assert set(pictures) == {path.name for path in (tmp_path / "out").iterdir()}
    assert set(pictures) == {"decoded_maps.png", "map_error.png", "map_mse.png", "kappa.png"}
    (tmp_path / "1/figures" / DECODED).unlink()
    with pytest.raises(RunFolderError, match=f"1, must have figures/{DECODED}"):
        comparison.compare([RunFolder(tmp_path / name) for name in ("0", "1")], tmp_path / "out")


def test_runs_that_differ_in_more_than_their_seed_have_names_of_their_own():
    changes = [{}, {"seed": 1}, {"kappa": 0.01}, {"overshoot": 1}, {"overshoot": 1, "seed": 2}, {"train_core": False}]
    configs = [config_fields(dataclasses.replace(SMOKE, **change)) for change in changes]
    del configs[1]["cells_per_side"]  # of a run of before there was such a field
    told = comparison.names(configs)
    two, one = (f"SonnetLSTM, generative, $L_o$ = {overshoot}" for overshoot in (2, 1))
    assert told == [f"{two}, kappa = 0.001"] * 2 + [f"{two}, kappa = 0.01", one, one, "SonnetLSTM, untrained"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overshoot": 6}, "overshoot: 6, must be from 1 to 5"),
        ({"batch_size": 9}, "batch_size: 9"),
        ({"beta_1": 1.0}, "beta_1: 1.0"),
        ({"side": 5}, "side: 5"),
        ({"kappa": 0.0}, "kappa: 0.0"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)
