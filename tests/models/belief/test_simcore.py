"""SimCore against the listing's arrays and a loop."""

import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from tests.support import golden_cases, relative_error
from tfmem.checkpoints import load_tf1
from tfmem.cores.base import Linear
from tfmem.cores.lstm import LSTM
from tfmem.models.belief import SimCoreHead, unroll_sim, windows
from tfmem.models.convdraw import FrameLoss

CASES = golden_cases("simcore/*.npz")
SEED = [7, 8]


class LinearDecoder(snt.Module):
    """The goldens' toy: cond W + b as a frame, squared error; it keeps what it predicted."""

    def __init__(self, frame_shape):
        super().__init__()
        self.frame_shape = tuple(frame_shape)
        self.linear = Linear(int(np.prod(frame_shape)))

    def __call__(self, frames, conditioning, seed):
        prediction = tf.reshape(self.linear(conditioning), [-1, *self.frame_shape])
        error = tf.reduce_sum(tf.square(frames - prediction), [1, 2, 3])
        return FrameLoss(error, tf.zeros_like(error), prediction)


def load(golden, case):
    """Head and arrays of a case, weights from its TF 1 checkpoint."""
    arrays = np.load(golden(f"simcore/{case}.npz"))
    hidden_size, num_actions = arrays["states_h"].shape[-1], arrays["actions"].shape[-1]
    core, model = LSTM(hidden_size), LinearDecoder(arrays["frames"].shape[2:])
    core.project_inputs(tf.zeros([1, num_actions]))
    model.linear.initialize(hidden_size)
    prefix = str(golden(f"simcore/ckpt_{case}/model.ckpt"))
    assert load_tf1(core, prefix, scope="sim_core").ignored == ["linear_decoder/linear/b", "linear_decoder/linear/w"]
    checkpoint = tf.train.load_checkpoint(prefix)
    model.linear.w.assign(checkpoint.get_tensor("linear_decoder/linear/w"))
    model.linear.b.assign(checkpoint.get_tensor("linear_decoder/linear/b"))
    sizes = {name: int(arrays[f"cfg_{name}"]) for name in ("sim_length", "num_to_model_time", "num_to_model_sim")}
    return SimCoreHead(core, model, **sizes), arrays


@pytest.mark.parametrize("case", CASES)
def test_golden(golden, case):
    head, arrays = load(golden, case)
    checked = {name for name in arrays if name.startswith("cfg_")} | {"perm_time", "perm_sim", "action_ids"}

    def check(name, actual, tolerance=1e-5):
        checked.add(name)
        assert actual.dtype == arrays[name].dtype, name
        if arrays[name].dtype.kind == "i":
            np.testing.assert_array_equal(actual, arrays[name], err_msg=name)
        else:
            error = relative_error(actual, arrays[name])
            assert error <= tolerance, f"{name}: {error:.1e}"

    sources = {name: tf.constant(arrays[name]) for name in ("frames", "actions", "states_h", "states_c")}
    frames, actions, h, c = sources.values()
    states = snt.LSTMState(h, c)
    checked |= sources.keys()
    np.testing.assert_array_equal(tf.argmax(actions, -1), arrays["action_ids"])
    gates, linear = head.core.gates, head.model.linear
    variables = {"w_i": gates.w_i, "w_s": gates.w_s, "b": gates.b, "linear_w": linear.w, "linear_b": linear.b}
    with tf.GradientTape() as tape:
        tape.watch(list(sources.values()))
        output = head(frames, actions, states, SEED, arrays["perm_time"], arrays["perm_sim"])
        loss = tf.reduce_mean(output.error)
    watched = sources | variables
    gradients = {
        k: tf.convert_to_tensor(g) for k, g in zip(watched, tape.gradient(loss, [*watched.values()]), strict=True)
    }

    starts = output.sim_time_indices[:, 0]
    check("sim_time_indices", starts)
    check("dt", output.dt[:, 0])
    check("frame_indices", tf.reshape(output.frame_indices, [-1]))
    check("frames_dt", output.frames)
    check("sim_outputs", output.sim_outputs)
    check("model_cond", output.conditioning)
    check("pred", output.reconstruction)
    check("per_example_loss", output.error)
    check("loss", loss)
    assert not tf.reduce_any(output.kl != 0)

    every_start = tf.range(len(frames) - head.sim_length)[:, tf.newaxis]
    check("patches", windows(actions, every_start, head.sim_length))
    check("staggered_inputs", windows(actions, starts[:, tf.newaxis], head.sim_length))
    initial = {
        "h": tf.reshape(tf.gather(h, starts), [-1, h.shape[-1]]),
        "c": tf.reshape(tf.gather(c, starts), [-1, c.shape[-1]]),
    }
    check("initial_state_h", initial["h"])
    check("initial_state_c", initial["c"])
    _, final = unroll_sim(head.core, starts, states, actions, head.sim_length)
    check("final_state_h", final.hidden)
    check("final_state_c", final.cell)

    for name in sources:
        check(f"grad/{name}", gradients[name], 1e-4)
    check("var/sim_core/w_gates", tf.concat([gates.w_i, gates.w_s], 0))
    check("var/sim_core/b_gates", tf.convert_to_tensor(gates.b))
    check("grad/sim_core/w_gates", tf.concat([gradients["w_i"], gradients["w_s"]], 0), 1e-4)
    check("grad/sim_core/b_gates", gradients["b"], 1e-4)
    for name in ("w", "b"):
        check(f"var/linear_decoder/linear/{name}", tf.convert_to_tensor(getattr(linear, name)))
        check(f"grad/linear_decoder/linear/{name}", gradients[f"linear_{name}"], 1e-4)
    assert checked == set(arrays)


def test_elements_with_places_of_their_own(golden, rng):
    """Each element's share is what the head says of a batch of it alone, with its permutations."""
    head, arrays = load(golden, "base")
    frames, actions = tf.constant(arrays["frames"]), tf.constant(arrays["actions"])
    states = snt.LSTMState(tf.constant(arrays["states_h"]), tf.constant(arrays["states_c"]))
    head.per_element = True
    output = head(frames, actions, states, SEED)
    starts, offsets = output.sim_time_indices.numpy(), output.dt.numpy()
    num_steps, batch_size = frames.shape[:2]
    rollouts = head.num_to_model_sim, head.num_to_model_time, batch_size
    assert (*offsets.shape, *starts.shape) == (rollouts[0], batch_size, rollouts[1], batch_size)
    assert len({tuple(column) for column in starts.T}) == batch_size
    head.per_element = False
    places = (starts, num_steps - head.sim_length), (offsets, head.sim_length)
    for b in range(batch_size):
        time, sim = (np.r_[used[:, b], np.setdiff1d(range(n), used[:, b])] for used, n in places)
        one = [tf.nest.map_structure(lambda x, b=b: x[:, b : b + 1], x) for x in (frames, actions, states)]
        alone = head(*one, SEED, time, sim)
        np.testing.assert_array_equal(output.frame_indices[..., b], alone.frame_indices[..., 0])
        np.testing.assert_allclose(
            tf.reshape(output.error, rollouts)[..., b], tf.reshape(alone.error, rollouts[:2]), rtol=1e-5
        )


def test_places_are_uniform_and_follow_from_the_seed(golden):
    head, arrays = load(golden, "short_sequence")
    head.num_to_model_time = head.num_to_model_sim = 1
    head.per_element = True
    frames, actions, *states = (
        tf.repeat(arrays[name][:, :1], 600, axis=1) for name in ("frames", "actions", "states_h", "states_c")
    )

    def places(seed):
        output = head(frames, actions, snt.LSTMState(*states), seed)
        return np.concatenate([output.sim_time_indices, output.dt])

    drawn = places([0, 1])
    np.testing.assert_array_equal(places([0, 1]), drawn)
    assert np.any(places([0, 2]) != drawn)
    counts = np.zeros([len(arrays["frames"]) - head.sim_length, head.sim_length])
    np.add.at(counts, tuple(drawn), 1)
    assert np.abs(counts - counts.mean()).max() < 5 * np.sqrt(counts.mean())


def test_sizes_unknown_when_traced(golden):
    head, arrays = load(golden, "overshoot1")
    arguments = [arrays[name] for name in ("frames", "actions", "states_h", "states_c")]
    specs = [tf.TensorSpec([None, None, *a.shape[2:]]) for a in arguments]
    run = tf.function(lambda f, a, h, c: head(f, a, snt.LSTMState(h, c), SEED), input_signature=specs)
    frames, actions, *states = map(tf.constant, arguments)
    for actual, expected in zip(run(*arguments), head(frames, actions, snt.LSTMState(*states), SEED), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sim_length": 0}, "sim_length: 0"),
        ({"num_to_model_sim": 1.5}, "num_to_model_sim: 1.5"),
        ({"sim_length": 4}, "frames: 4 steps, must have more than sim_length = 4"),
        (
            {"actions": tf.zeros([3, 2, 3])},
            r"actions: shape \(3, 2, 3\), must start with those of frames, \(4, 2\)",
        ),
        ({"states": (tf.zeros([4, 1, 5]),)}, r"states: shape \(4, 1, 5\)"),
    ],
)
def test_head_errors(change, message):
    given = {
        "sim_length": 2,
        "num_to_model_sim": 1,
        "actions": tf.zeros([4, 2, 3]),
        "states": (tf.zeros([4, 2, 5]),),
    } | change
    with pytest.raises(ValueError, match=message):
        SimCoreHead(None, None, given["sim_length"], 1, given["num_to_model_sim"])(
            tf.zeros([4, 2, 8, 8, 1]), given["actions"], given["states"], SEED
        )
