"""SimCore agents: what each loss reaches, memory at the start of episodes, resume, scores, every core."""

import dataclasses
import json

import numpy as np
import pytest
import tensorflow as tf

from reproductions.belief_states import terrain_agent
from reproductions.belief_states.terrain_agent import Experiment
from tests.support import first_of
from tests.training.test_trainer import Crash, assert_same_run, state_of
from tfmem import plotting
from tfmem.cores.config import KanervaConfig, LSTMConfig, MetalearnedMemoryConfig, RMAConfig, SonnetLSTMConfig
from tfmem.rl import AgentExperiment
from tfmem.rl.learner import draws
from tfmem.rl.rollout import rollout
from tfmem.training import config_fields, train
from tfmem.training.run_folder import RunFolder, RunFolderError

SMOKE = terrain_agent.PRESETS["smoke"]
PLAIN = dataclasses.replace(SMOKE, model="deterministic", map_samples=False)
CORES = {
    "LSTM": SonnetLSTMConfig(hidden_size=4),
    "RMA": RMAConfig(hidden_size=4, memory_size=4, word_size=3, num_reads=2, top_k=2),
    "Kanerva": KanervaConfig(hidden_size=4, memory_size=2, word_size=3),
    "Keras cell": LSTMConfig(units=4),
}


def record_of(experiment, number=0):
    """A record, in which episodes end, and the state of the worlds after it."""
    carry = experiment.initial_carry()
    config, actor = experiment.config, carry.actor
    for n in range(number + 1):
        drawn = draws(config.seed, tf.constant(n, tf.int64), config.unroll_length, config.num_worlds)
        actor, record = rollout(experiment.model, experiment.world, experiment.levels, actor, *drawn)
    return record


def update(experiment, number, carry):
    return experiment.train_step(tf.constant(number, tf.int64), {}, carry)


def gradients(experiment, record, weight):
    """Of the whole loss with a weight of SimCore's, by the agent's variables; and the losses."""
    experiment.config = dataclasses.replace(experiment.config, simcore_weight=weight)
    variables = [v.value for v in experiment.model.trainable_variables]
    with tf.GradientTape() as tape:
        loss, extra = experiment.learner.loss(record, 1)
        total = loss.total + extra.loss
    return tape.gradient(total, variables, unconnected_gradients="zero")


@pytest.mark.parametrize("core", first_of(["RMA", "LSTM", "Kanerva"]))
def test_both_losses_reach_the_core_with_one_weight_between_them(core):
    experiment = Experiment(dataclasses.replace(PLAIN, core=CORES[core]))
    record = record_of(experiment)
    alone, once, twice = (gradients(experiment, record, weight) for weight in (0.0, 1.0, 2.0))
    names = [v.path for v in experiment.model.trainable_variables]
    assert np.any(once[0] != alone[0]), names[0]  # the encoder
    for name, a, b, c in zip(names, alone, once, twice, strict=True):
        np.testing.assert_allclose(b - a, c - b, atol=1e-4 * np.abs(c).max() + 1e-7, err_msg=name)
        heads = name.startswith(("policy", "baseline")) or "/policy/" in name or "/baseline/" in name
        if heads:
            np.testing.assert_array_equal(a, b)
    assert sum(np.any(a != b) for a, b in zip(alone, once, strict=True)) > 4


def test_a_weight_of_zero_is_the_plain_agent():
    config = dataclasses.replace(SMOKE, simcore_weight=0.0, map_samples=True)
    belief, plain = Experiment(config), AgentExperiment(config)
    carries = [experiment.initial_carry() for experiment in (belief, plain)]
    for number in range(3):
        rows = []
        for index, experiment in enumerate((belief, plain)):
            carries[index], metrics = update(experiment, number, carries[index])
            rows.append(metrics)
        assert rows[0]["policy_gradient_loss"] == rows[1]["policy_gradient_loss"]
        assert rows[0]["gradient_norm"] == rows[1]["gradient_norm"]
    for a, b in zip(belief.model.weights, plain.model.weights, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_decoder_teaches_the_agent():
    experiment = Experiment(dataclasses.replace(SMOKE, simcore_weight=0.0, map_samples=True))
    record = record_of(experiment)
    agent = [v.value for v in experiment.model.trainable_variables]
    with tf.GradientTape() as tape:
        extra = experiment.learner.loss(record, 1)[1].loss
    found = tape.gradient(extra, [*agent, *experiment.probes])
    assert all(gradient is None for gradient in found[: len(agent)])
    assert any(gradient is not None for gradient in found[len(agent) :])
    before = [v.numpy() for v in experiment.probes]
    update(experiment, 0, experiment.initial_carry())
    assert all(np.any(v != b) for v, b in zip(experiment.probes, before, strict=True))


@pytest.mark.parametrize("core", CORES)
def test_episodes_start_with_an_empty_memory(core):
    experiment = Experiment(dataclasses.replace(PLAIN, core=CORES[core]))
    record = record_of(experiment, 1)
    e = record.entries
    steps, worlds = np.nonzero(e.done)
    assert len(steps) > 0
    frames = e.observation, e.action, e.reward, e.done
    output, _ = experiment.model.unroll(*frames, record.core_state, keep_states=True)
    first = experiment.model.step(
        *tf.nest.map_structure(lambda x: x[steps[0]], frames), experiment.model.initial_state(SMOKE.num_worlds)
    )[1]
    for whole, alone in zip(tf.nest.flatten(output.states), tf.nest.flatten(first), strict=True):
        np.testing.assert_allclose(whole[steps[0], worlds[0]], alone[worlds[0]], rtol=1e-5, atol=1e-6)
    if core == "RMA":
        assert output.states.write_counter[steps[0], worlds[0]] == 1
        assert np.count_nonzero(np.any(output.states.memory[steps[0], worlds[0]], -1)) == 1


def test_frames_beyond_the_end_of_an_episode_are_not_modelled():
    experiment = Experiment(PLAIN)
    record = record_of(experiment)
    done = np.zeros([SMOKE.unroll_length + 1, SMOKE.num_worlds], bool)
    done[3, 0] = True
    entries = record.entries._replace(done=tf.constant(done))
    states = experiment.model.unroll(
        entries.observation, entries.action, entries.reward, entries.done, record.core_state, keep_states=True
    )[0].states
    output = experiment._modelled(entries, states, tf.constant([3, 4]))
    raw = experiment.head(
        tf.cast(entries.observation, tf.float32) / 255,
        tf.one_hot(entries.action, 4),
        states,
        tf.constant([3, 4]),
    )
    error, whole = (np.reshape(x.error, [SMOKE.num_offsets, SMOKE.num_start_points, 2]) for x in (output, raw))
    starts, ends = raw.sim_time_indices.numpy()[:, 0], raw.frame_indices.numpy()[..., 0]
    beyond = (starts < 3) & (ends >= 3)
    assert beyond.any()
    assert not beyond.all()
    kept = np.stack([~beyond, np.ones_like(beyond)], -1)
    np.testing.assert_allclose(error, whole * kept / kept.mean(), rtol=1e-5)


def test_the_weight_leaves_the_multiplier_as_it_is():
    moved = []
    for weight in (0.5, 2.0):
        experiment = Experiment(dataclasses.replace(SMOKE, simcore_weight=weight, policy_lag=0, learning_rate=1e-9))
        update(experiment, 0, experiment.initial_carry())
        moved.append({name: geco.multiplier.w.numpy() for name, geco in experiment.gecos.items()})
    assert moved[0]["model"] != Experiment(SMOKE).gecos["model"].multiplier.w.numpy()
    for name in ("model", "map_model"):
        np.testing.assert_allclose(moved[0][name], moved[1][name], rtol=1e-6)


@pytest.mark.parametrize("core", first_of([*CORES]))
def test_every_core_learns(core):
    experiment = Experiment(dataclasses.replace(SMOKE, core=CORES[core]))
    carry, before = experiment.initial_carry(), {name: v.numpy() for name, v in experiment.variables().items()}
    for number in range(2):
        carry, metrics = update(experiment, number, carry)
        assert all(np.isfinite(float(value)) for value in metrics.values())
    assert metrics["policy_gradient_at_core"] > 0
    assert metrics["simcore_gradient_at_core"] > 0
    for part in ("model", "simulation", "frame_model", "map_decoder", "map_model", "geco_model", "geco_map_model"):
        assert any(np.any(experiment.variables()[name] != b) for name, b in before.items() if name.startswith(part))


def test_scores_are_of_first_episodes():
    experiment = Experiment(dataclasses.replace(PLAIN, eval_episodes=2))
    world, model, errors, ends = experiment.world, experiment.model, [], []
    actor = experiment._evaluation.carry[0]
    state, frame, core = actor.world, actor.entry, actor.core_state
    running, last = np.ones(2, bool), None
    for number in range(2):
        uniforms, seeds = draws(2**32, tf.constant(number, tf.int64), SMOKE.unroll_length, 2)
        for t in range(SMOKE.unroll_length):
            if frame.done.numpy().any() and number + t:
                ends += [last[i] for i in np.flatnonzero(frame.done & running)]
                running &= ~frame.done.numpy()
            output, core = model.step(frame.observation, frame.action, frame.reward, frame.done, core)
            decoded = experiment.map_decoder(output.core)
            last = np.square(decoded - frame.labels.numpy() / 255).mean((1, 2, 3))
            errors += [last[i] for i in np.flatnonzero(running)]
            one = tf.nest.map_structure(lambda x, t=t: x[t : t + 1], (uniforms, seeds))
            after, _ = rollout(model, world, experiment.unseen_levels, actor._replace(world=state, entry=frame), *one)
            state, frame = after.world, after.entry
            actor = after
    scores = experiment.evaluate()
    assert len(errors) == scores["episode_length"] * 2
    np.testing.assert_allclose(scores["map_mse"], np.mean(errors), rtol=1e-5)
    np.testing.assert_allclose(scores["map_mse_start"], np.mean(errors[:2]), rtol=1e-5)
    np.testing.assert_allclose(scores["map_mse_end"], np.mean(ends), rtol=1e-5)


class Undrawn(Experiment):
    """Without pictures and SavedModel, which `test_experiments` has."""

    def figures(self, folder):
        pass

    def export(self, folder):
        folder.mkdir()


class Crashing(Undrawn):
    """Loses its data at update 6."""

    def batch(self, update):
        if update == 6:
            raise Crash
        return super().batch(update)


@pytest.mark.long
def test_resumed_equals_uninterrupted(tmp_path):
    config = dataclasses.replace(SMOKE, map_samples=False)
    train(Undrawn(config), tmp_path / "whole")
    with pytest.raises(Crash):
        train(Crashing(config), tmp_path / "resumed")
    assert RunFolder(tmp_path / "resumed").restore()[0].update == 4
    train(Undrawn(config), tmp_path / "resumed")
    assert_same_run(tmp_path / "resumed", state_of(tmp_path / "whole"))
    result = RunFolder(tmp_path / "whole").result()["ours"]
    assert {"episode_return", "random_episode_return", "map_mse_end", "mean_map_mse_end", "kl_nats"} <= set(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"overshoot": 6}, "overshoot: 6, must be from 1 to 5"),
        ({"simcore_weight": -1.0}, "simcore_weight: -1.0, must be at least 0"),
        ({"kappa": 0.0}, "kappa: 0.0"),
    ],
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SMOKE, **change)


def test_a_core_with_a_loss_of_its_own_is_refused():
    with pytest.raises(ValueError, match=r"core: MetalearnedMemoryConfig.*, must be a core whose output is a vector"):
        Experiment(dataclasses.replace(SMOKE, core=MetalearnedMemoryConfig(units=4, memory_size=4, word_size=4)))


def test_each_frame_of_the_map_counts_once():
    """Entry T is entry 0 of the next record."""
    experiment = Experiment(dataclasses.replace(SMOKE, simcore_weight=0.0, map_samples=False))
    record = record_of(experiment)
    labels = record.entries.labels.numpy()
    labels[-1] = 255 - labels[-1]
    other = record._replace(entries=record.entries._replace(labels=tf.constant(labels)))
    first, second = (experiment.learner.loss(r, 1)[1].loss for r in (record, other))
    assert first == second
    labels[-2] = 255 - labels[-2]
    other = record._replace(entries=record.entries._replace(labels=tf.constant(labels)))
    assert experiment.learner.loss(other, 1)[1].loss != first


def finished(folder, seed, **changes):
    """Write what `compare` reads of a run."""
    config = config_fields(dataclasses.replace(SMOKE, seed=seed, **changes))
    (folder / "figures").mkdir(parents=True)
    (folder / "config.json").write_text(
        json.dumps({"experiment": "belief_states/terrain_agent", "preset": "smoke", "config": config})
    )
    (folder / "result.json").write_text(
        json.dumps({"ours": {}, "seeds": [seed], "updates": 4, "wall_time_seconds": 1.0, "cpu_time_seconds": 1.0})
    )
    rows = [f"{n},1,{n},{seed}" for n in (1, 2)]
    names = "update,train/episodes,train/frames,train/episode_return"
    (folder / "metrics.csv").write_text("\n".join([names, *rows, ""]))
    np.savez(folder / "figures/map_error_along.npz", errors=np.full(3, seed), mean_map_errors=np.ones(3))
    return RunFolder(folder)


def test_runs_of_one_setting_are_one_curve(tmp_path, monkeypatch):
    drawn, windows, figure = [], [], plotting.curves_figure

    def curves_figure(curves, *names, window):
        drawn.append(curves)
        windows.append(window)
        return figure(curves, *names, window=window)

    monkeypatch.setattr(plotting, "curves_figure", curves_figure)
    folders = [finished(tmp_path / f"a/seed{seed}", seed) for seed in (1, 2)]
    folders.append(finished(tmp_path / "b/seed1", 1, simcore_weight=0.5))
    terrain_agent.compare(folders, tmp_path)
    assert {name: len(seeds) for name, seeds in drawn[0].items()} == {
        "smoke": 2,
        "smoke, simcore_weight=0.5": 1,
        "mean map": 1,
    }
    assert all({*curves} == {"smoke", "smoke, simcore_weight=0.5"} for curves in drawn[1:])
    assert windows == [10] * 4  # appendix E: blocks and map MSE
    folders.append(finished(tmp_path / "c/seed1", 1, world=dataclasses.replace(SMOKE.world, max_steps=10)))
    with pytest.raises(RunFolderError, match=r"c/seed1 has another world than .*a/seed1, must have the same"):
        terrain_agent.compare(folders, tmp_path)
