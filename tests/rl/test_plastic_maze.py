"""The plastic agent of the maze (Miconi et al. 2018): loss, gradients, traces and Adam, by the learner of `tfmem.rl`.

Against goldens/plastic_maze where TFMEM_GOLDENS_DIR has it (its numbers are under a non-commercial licence), and
against the equations written out, with gradients by central differences.
"""

import numpy as np
import pytest
import tensorflow as tf

from tests.references.plastic import plastic
from tests.references.returns import n_step
from tests.support import first_of, relative_error
from tfmem.cores import PlasticRNN
from tfmem.optimizers import SonnetAdam
from tfmem.recurrence import unroll
from tfmem.rl.agent import Agent, MLPTorso
from tfmem.rl.learner import Objective, actor_critic_loss
from tfmem.rl.rollout import Entry

# Public code: maze.py; 0.03 (R - V)^2 is 0.06 halves of it. An episode is a record, whose last entry starts the next.
OBJECTIVE = Objective(
    discount=0.9,
    baseline_cost=0.06,
    entropy_cost=0.1,
    regularizer="concentration",
    reward_mode="none",
    reduction="mean",
)


class Maze:
    """An agent whose weights have the public code's names and layouts."""

    def __init__(self, units, features, num_actions, rule, homogeneous):
        self.cell = PlasticRNN(units, rule, homogeneous)
        torso = MLPTorso()
        self.agent = Agent(torso, self.cell, num_actions, action_input=False, reward_input=None)
        self.agent.build_for(tf.TensorSpec([features]))
        policy, value = self.agent.policy, self.agent.baseline
        self.variables = {
            "w": self.cell.w,
            "alpha": self.cell.alpha,
            "eta": self.cell.eta,
            "i2h.weight": self.cell.kernel,
            "i2h.bias": self.cell.bias,
            "h2o.weight": policy.kernels[0],
            "h2o.bias": policy.biases[0],
            "h2v.weight": value.kernels[0],
            "h2v.bias": value.biases[0],
        }

    def set_weights(self, weights):
        for name, variable in self.variables.items():
            variable.assign(self.as_variable(name, weights[name]))

    def as_variable(self, name, array):
        """Rows are targets in the public code's linear layers, columns here."""
        array = np.asanyarray(array)  # keeps the name that `tests.parity` gives it
        return np.reshape(
            array.T if name.startswith(("i2h.w", "h2o.w", "h2v.w")) else array, self.variables[name].shape
        )

    def learn(self, inputs, actions, rewards):
        """`(output, loss, gradients by name)` of an episode [T, ...]."""
        steps, num_actions = len(inputs), self.agent.num_actions
        done = np.zeros([steps + 1, 1], bool)
        done[0] = done[-1] = True

        def led_here(x, dtype):
            return tf.constant(np.concatenate([[0], x])[:, np.newaxis], dtype)

        fields = dict.fromkeys(Entry._fields, ()) | {
            "observation": tf.constant(np.concatenate([inputs, inputs[:1]])[:, np.newaxis], tf.float32),
            "action": led_here(actions, tf.int32),
            "reward": led_here(rewards, tf.float32),
            "done": tf.constant(done),
        }

        @tf.function(autograph=False)
        def compute():
            given = [fields[name] for name in ("observation", "action", "reward", "done")]
            with tf.GradientTape() as tape:
                output, _ = self.agent.unroll(*given, self.agent.initial_state(1))
                behaviour = tf.concat([tf.zeros([1, 1, num_actions]), tf.stop_gradient(output.logits[:-1])], 0)
                loss = actor_critic_loss(OBJECTIVE, Entry(**fields | {"logits": behaviour}), output)
            return output, loss, tape.gradient(loss.total, [*self.variables.values()])

        output, loss, gradients = compute()
        return output, loss, dict(zip(self.variables, gradients, strict=True))

    def traces(self, inputs):
        """Hebb [T, units, units] after every step."""

        def step(x, state):
            _, state = self.cell(x, state)
            return state.hebb, state

        inputs = tf.constant(np.asarray(inputs)[:, np.newaxis], tf.float32)
        hebb, _ = tf.function(lambda: unroll(step, inputs, self.cell.get_initial_state(1)), autograph=False)()
        return hebb[:, 0]


def check_episode(maze, data, prefix, inputs, actions, rewards):
    """Outputs, losses and gradients against the arrays under a prefix; returns the gradients."""
    steps = len(inputs)
    output, loss, gradients = maze.learn(inputs, actions, rewards)
    assert relative_error(output.logits[:-1, 0], data[f"{prefix}/logits"]) < 1e-5
    assert relative_error(output.value[:-1, 0], data[f"{prefix}/value"]) < 1e-5
    np.testing.assert_allclose(loss.log_rhos, np.zeros([steps, 1]), atol=1e-6)
    assert relative_error(loss.targets.vs[:, 0], data[f"{prefix}/returns"]) < 1e-5
    for name, part in (
        ("policy_sum", steps * loss.policy_gradient),
        ("value_sum", 2 * steps * loss.baseline),
        ("concentration_sum", steps * loss.regularizer),
        ("total", loss.total),
    ):
        np.testing.assert_allclose(part, data[f"{prefix}/loss_{name}"], rtol=1e-4, err_msg=f"{prefix} {name}")
    for name, gradient in gradients.items():
        if f"{prefix}/grad/{name}" in data:
            expected = maze.as_variable(name, data[f"{prefix}/grad/{name}"])
            assert relative_error(gradient, expected) < 1e-4, f"{prefix}/grad/{name}"
    return gradients


def without_plasticity(weights):
    return {"alpha": np.zeros([1]), "eta": np.zeros([1]), **weights}


def make(weights, prefix):
    rule = "hebb" if prefix.endswith("hebb") else "oja"
    units, features = weights["i2h.weight"].shape
    maze = Maze(units, features, len(weights["h2o.bias"]), rule, prefix.split("_")[0] in ("homo", "rnn"))
    maze.set_weights(weights)
    return maze


@pytest.mark.parametrize("prefix", ["plastic_hebb", "plastic_oja", "homo_hebb", "homo_oja", "rnn"])
def test_two_episodes_equal_the_public_code(golden, prefix):
    data = np.load(golden("plastic_maze/network_small.npz"))
    names = [key.rsplit("/", 1)[1] for key in data.files if key.startswith(f"{prefix}/weights/")]
    maze = make(without_plasticity({name: data[f"{prefix}/weights/{name}"] for name in names}), prefix)
    optimizer = SonnetAdam(1e-4, epsilon=1e-4)
    optimizer.build([*maze.variables.values()])
    for episode in (prefix, f"{prefix}/episode2"):
        inputs = data[f"{episode}/input"]
        if f"{episode}/hebb" in data:
            assert relative_error(maze.traces(inputs), data[f"{episode}/hebb"]) < 1e-5
        given = inputs, data[f"{episode}/action"], data[f"{episode}/reward"]
        gradients = check_episode(maze, data, episode, *given)
        if prefix == "rnn":
            gradients |= {name: tf.zeros_like(gradients[name]) for name in ("alpha", "eta")}
        optimizer.apply([*gradients.values()], [*maze.variables.values()])
        for name in names:
            expected = maze.as_variable(name, data[f"{episode}/after/{name}"])
            np.testing.assert_allclose(maze.variables[name], expected, rtol=0, atol=5e-7, err_msg=f"{episode} {name}")


@pytest.mark.parametrize("prefix", first_of(["plastic_hebb", "homo_oja", "plastic_oja", "homo_hebb"], 2))
def test_the_published_size_equals_the_public_code(golden, prefix):
    data = np.load(golden("plastic_maze/network_200.npz"))
    weights = {key.split("/")[1]: data[key] for key in data.files if key.startswith("weights/")}
    if prefix.startswith("homo"):
        weights |= {key.split("/")[1]: data[key] for key in data.files if key.startswith("weights_homo/")}
    maze = make(weights, prefix)
    inputs = data["env/input"]
    gradients = check_episode(maze, data, prefix, inputs, data["env/action"], data["env/reward"])
    hebb = maze.traces(inputs).numpy()
    every = len(hebb) // len(data[f"{prefix}/hebb_corner"])
    assert relative_error(hebb[every - 1 :: every, :4, :4], data[f"{prefix}/hebb_corner"]) < 1e-5
    if f"{prefix}/hebb_end" in data:
        assert relative_error(hebb[-1], data[f"{prefix}/hebb_end"]) < 1e-5
    assert relative_error(np.linalg.norm(hebb, axis=(1, 2)), data[f"{prefix}/hebb_norm"]) < 1e-5
    optimizer = SonnetAdam(1e-4, epsilon=1e-4)
    optimizer.build([*maze.variables.values()])
    optimizer.apply([*gradients.values()], [*maze.variables.values()])
    for name, variable in maze.variables.items():
        expected = data[f"{prefix}/after/{name}"]
        if name in ("w", "alpha") and expected.ndim == 2:
            variable = variable[: len(expected)]
        else:
            expected = maze.as_variable(name, expected)
        np.testing.assert_allclose(variable, expected, rtol=0, atol=5e-7, err_msg=name)


@pytest.mark.parametrize("rule", ["hebb", "oja"])
@pytest.mark.parametrize("homogeneous", [False, True])
def test_loss_and_gradients_equal_the_equations(rng, rule, homogeneous):
    """A bare clone's check: the loss of maze.py in float64 numpy, its gradients by central differences."""
    units, features, actions, steps = 3, 4, 3, 6
    maze = Maze(units, features, actions, rule, homogeneous)
    weights = {name: rng.normal(size=v.shape) * 0.5 for name, v in maze.variables.items()}
    weights["eta"] = np.array(0.3)
    for name, variable in maze.variables.items():
        variable.assign(weights[name])
    inputs, a, r = rng.normal(size=[steps, features]), rng.integers(actions, size=steps), rng.normal(size=steps) * 3
    returns = n_step(r[:, None], np.full([steps, 1], 0.9), np.zeros([steps, 1]), n=steps)[:, 0]

    def loss(weights, constant_values=None):
        names = {"w": "w", "alpha": "alpha", "eta": "eta", "i2h.weight": "kernel", "i2h.bias": "bias"}
        core = {theirs: weights[name] for name, theirs in names.items()}
        h = plastic(inputs[:, None], core, units, rule)[:, 0]
        logits = h @ weights["h2o.weight"] + weights["h2o.bias"]
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        values = (h @ weights["h2v.weight"] + weights["h2v.bias"])[:, 0]
        constant = values if constant_values is None else constant_values
        policy = -np.sum(np.log(p[np.arange(steps), a]) * (returns - constant))
        total = policy + 0.03 * np.sum((returns - values) ** 2) + 0.1 * np.sum(p**2)
        return total / steps, values

    expected, values = loss(weights)
    _, actual, gradients = maze.learn(inputs, a, r)
    np.testing.assert_allclose(actual.total, expected, rtol=1e-5)
    for name, gradient in gradients.items():
        slopes = np.zeros(np.shape(weights[name]))
        for place in np.ndindex(slopes.shape):
            moved = []
            for sign in (1, -1):
                changed = np.array(weights[name])
                changed[place] += sign * 1e-5
                moved.append(loss({**weights, name: changed}, values)[0])
            slopes[place] = (moved[0] - moved[1]) / 2e-5
        assert relative_error(gradient, slopes) < 1e-4, name
