"""Common part of the tests of the worlds."""

import copy
import pickle

import gymnasium
import numpy as np
from gymnasium.wrappers import FrameStackObservation

COPIES = {"deepcopy": copy.deepcopy, "pickle": lambda env: pickle.loads(pickle.dumps(env))}
KINDS = {
    "single": gymnasium.make,
    "wrapped": lambda *args, **arguments: FrameStackObservation(gymnasium.make(*args, **arguments), 3),
    "vector": lambda name, **arguments: gymnasium.make_vec(name, 2, **arguments),
    "Gymnasium's vector": lambda name, **arguments: gymnasium.make_vec(name, 2, "sync", **arguments),
}
COPIED_KINDS = [(kind, copied) for kind in KINDS for copied in COPIES]
COPIED_KINDS.remove(("Gymnasium's vector", "pickle"))  # Gymnasium keeps a local function in it


def assert_vector_equals_singles(name, steps, max_episode_steps, **arguments):
    """The batched environment against Gymnasium's own around the single one, over the ends of episodes."""
    arguments = {"max_episode_steps": max_episode_steps, **arguments}
    ours = gymnasium.make_vec(name, 3, **arguments)
    theirs = gymnasium.make_vec(name, 3, vectorization_mode="sync", **arguments)
    assert ours.metadata["autoreset_mode"] == theirs.metadata["autoreset_mode"]
    for space in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(ours, space) == getattr(theirs, space)
    rng = np.random.default_rng(0)
    for seed in (5, [8, 2, 8], None):
        assert_same(ours.reset(seed=seed), theirs.reset(seed=seed))
    ends = 0
    for _ in range(steps):
        actions = rng.choice(ours.single_action_space.n, 3, p=often_forward(ours))
        result = ours.step(actions)
        assert_same(result, theirs.step(actions))
        ends += (result[2] | result[3]).sum()
    assert ends >= 3
    ours.close()
    theirs.close()


def often_forward(env, forward=0.7):
    """Probabilities of the actions: that of the first, the others alike."""
    space = getattr(env, "single_action_space", env.action_space)
    return [forward] + [(1 - forward) / (space.n - 1)] * (space.n - 1)


def assert_same(a, b):
    """Nests of tuples, dicts and arrays, with equal dtypes and numbers."""
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        a, b = list(a.values()), [b[name] for name in a]
    if isinstance(a, list | tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    else:
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(a, b)


def rollout(name, seed, actions, **arguments):
    """Frames and ground truth of a single environment: [T + 1, S, S, 3], list of infos."""
    env = gymnasium.make(name, **arguments)
    steps = [env.reset(seed=seed)]
    for action in actions:
        frame, _, _, _, info = env.step(action)
        steps.append((frame, info))
    env.close()
    frames, infos = zip(*steps, strict=True)
    return np.stack(frames), infos


def assert_copies_live_on_their_own(name, kind, copied, forward=0.7, **arguments):
    """An environment that is copied in the midst of an episode, and its copy, give the same for the same actions.

    The copy goes first, into other worlds at last, so that what it shared with the original would show.
    """
    env = KINDS[kind](name, frame_size=16, map_size=8, **arguments)
    rng, p = np.random.default_rng(1), often_forward(env, forward)
    actions = rng.choice(len(p), [30, *env.action_space.shape], p=p)
    COPIES[copied](env).reset(seed=3)  # before the first reset as well
    env.reset(seed=4)
    for action in actions[:10]:
        env.step(action)
    twin = COPIES[copied](env)
    steps = play(twin, actions[10:])
    assert_same(steps, play(env, actions[10:]))
    twin.close()
    env.close()
    return steps


def play(env, actions):
    """Results of the steps, and the first frames of the next two worlds."""
    return [*(env.step(action) for action in actions), env.reset(), env.reset()]
