"""Common part of the worlds: the agent, and both kinds of Gymnasium environment of a world.

A `World` is one world with one agent. `WorldEnv` makes a `gymnasium.Env` of it, `WorldVectorEnv` a
`gymnasium.vector.VectorEnv` of several; both run the same code, so that they give the same numbers for the same seeds.

The observation is the frame alone. The ground truth, which an agent must not see, is in `info`:

    map       uint8 [map_size, map_size, 3]: RGB from above, north up, west left
    position  float32 [2]: east and north of the middle
    heading   float32: radians from east towards north, from 0 to 2 pi

The agent starts in the middle and looks north, so that it can know the map's frame. Not specified; we use this.
"""

import abc

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from tfmem.envs.rendering import Camera
from tfmem.envs.seeding import reseed
from tfmem.validation import check_above_zero, check_integer

ACTIONS = ("forward", "backward", "turn left", "turn right")
FORWARD, BACKWARD, TURN_LEFT, TURN_RIGHT = range(4)


class World(abc.ABC):
    """One world and its agent; each `reset` makes a new world from its random generator.

    Args:
        frame_size: side of the frames, pixels.
        map_size: side of the map, pixels.
        field_of_view: of the camera, degrees.
        speed: length of a move.
        num_headings: turns that make a full circle.

    Attributes:
        actions: names of the actions; a subclass may add to `ACTIONS`.
        camera: `rendering.Camera`.
        side: length of the world's sides; a class or object attribute of the subclass.
        scene: `rendering.Scene`, from `reset` on.
        map: the map at present, uint8 [map_size, map_size, 3], from `reset` on.
        position: float64 [2].

    Raises:
        ValueError: an argument out of its range.
    """

    actions = ACTIONS

    def __init__(self, frame_size, map_size, field_of_view, speed, num_headings):
        check_integer("frame_size", frame_size, 8)
        check_integer("map_size", map_size, 1)
        check_integer("num_headings", num_headings, 3)
        check_above_zero(speed=speed)
        self.camera = Camera(frame_size, field_of_view)
        self.map_size, self.speed, self.num_headings = map_size, speed, num_headings
        self.scene = self.map = None

    @abc.abstractmethod
    def make(self, rng):
        """Make a new world from `rng`, with its `scene` and `map`."""

    @abc.abstractmethod
    def eye(self):
        """Height of the agent's eye at its position."""

    @abc.abstractmethod
    def free(self, x, y):
        """True where the agent may stand."""

    def reached(self):
        """Collect at the present position: (reward, True at the end of the episode)."""
        return 0.0, False

    def reset(self, rng):
        """A new world, with the agent in its middle."""
        self.position, self.turns = np.zeros(2), 0
        self.make(rng)

    def step(self, action):
        """Turn or move the agent; return (reward, True at the end of the episode).

        A blocked agent slides along the obstacle or stays in place.
        """
        if action in (TURN_LEFT, TURN_RIGHT):
            self.turns = (self.turns + (1 if action == TURN_LEFT else -1)) % self.num_headings
            return 0.0, False
        length = self.speed if action == FORWARD else -self.speed
        move = length * np.array([np.cos(self.yaw), np.sin(self.yaw)])
        for way in (move, move * [1, 0], move * [0, 1]):
            if self.free(*(self.position + way)):
                self.position = self.position + way
                break
        return self.reached()

    @property
    def yaw(self):
        """The agent's heading, radians from east, from 0 to 2 pi."""
        return (np.pi / 2 + 2 * np.pi * self.turns / self.num_headings) % (2 * np.pi)

    def frame(self):
        """The agent's view: uint8 [frame_size, frame_size, 3]."""
        return self.scene.render(self.camera, [[*self.position, self.eye()]], [self.yaw])[0]

    def truth(self):
        """The ground truth; see the top of this file."""
        position, heading = self.position.astype(np.float32), np.float32(self.yaw)
        return {"map": self.map.copy(), "position": position, "heading": heading}


def _spaces(world):
    size = world.camera.size
    return gymnasium.spaces.Box(0, 255, [size, size, 3], np.uint8), gymnasium.spaces.Discrete(len(world.actions))


class WorldEnv(gymnasium.Env):
    """One world as a `gymnasium.Env`; see the subclass for its arguments.

    Args:
        render_mode: "rgb_array": `render` gives the frame; or None.
        arguments: of the world.

    Raises:
        ValueError: an unknown render_mode, or an argument of the world out of its range.
    """

    world_class: type[World]
    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}  # noqa: RUF012

    def __init__(self, render_mode=None, **arguments):
        _check_render_mode(render_mode, self.metadata)
        self.render_mode, self.world = render_mode, self.world_class(**arguments)
        self.observation_space, self.action_space = _spaces(self.world)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.world.reset(self.np_random)
        return self.world.frame(), self.world.truth()

    def step(self, action):
        if self.world.scene is None:
            raise ResetNeeded("call reset before step")
        if not self.action_space.contains(action):
            raise ValueError(f"action: {action!r}, must be an integer from 0 to {self.action_space.n - 1}")
        reward, terminated = self.world.step(action)
        return self.world.frame(), reward, terminated, False, self.world.truth()

    def render(self):
        if self.render_mode is None:
            return None
        if self.world.scene is None:
            raise ResetNeeded("call reset before render")
        return self.world.frame()


class WorldVectorEnv(VectorEnv):
    """Several worlds side by side as a `gymnasium.vector.VectorEnv`; see the subclass for the worlds' arguments.

    World i with seed s gives what the single environment gives with seed s. The autoreset mode is NEXT_STEP, as in
    Gymnasium's own: the step after an episode's last one ignores the world's action and returns the first frame of a
    new episode with reward 0. Arrays that were returned are not written to again.

    Args:
        num_envs: number of worlds.
        render_mode: "rgb_array": `render` gives the frames; or None.
        max_episode_steps: steps until an episode is truncated; None: never. `gymnasium.make_vec` fills it in.
        arguments: of the worlds.

    Raises:
        ValueError: an argument out of its range.
    """

    world_class: type[World]
    metadata = {**WorldEnv.metadata, "autoreset_mode": AutoresetMode.NEXT_STEP}  # noqa: RUF012

    def __init__(self, num_envs=1, render_mode=None, max_episode_steps=None, **arguments):
        check_integer("num_envs", num_envs, 1)
        if max_episode_steps is not None:
            check_integer("max_episode_steps", max_episode_steps, 1)
        _check_render_mode(render_mode, self.metadata)
        self.num_envs, self.render_mode, self.max_episode_steps = num_envs, render_mode, max_episode_steps
        self.worlds = [self.world_class(**arguments) for _ in range(num_envs)]
        self.single_observation_space, self.single_action_space = _spaces(self.worlds[0])
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [None] * num_envs
        self._steps, self._done = np.zeros(num_envs, int), np.zeros(num_envs, bool)

    def reset(self, *, seed=None, options=None):
        """New worlds.

        Args:
            seed: s: the worlds get s, s + 1, ...; a list: one for each; None: their generators continue.
            options: not used.

        Raises:
            ValueError: a negative or other seed, or a list of another length.
        """
        reseed(self._generators, seed)
        for world, generator in zip(self.worlds, self._generators, strict=True):
            world.reset(generator)
        self._steps[:], self._done[:] = 0, False
        return self._frames(), self._infos()

    def step(self, actions):
        """A step of every world; `actions` are integers [num_envs]."""
        if self.worlds[-1].scene is None:
            raise ResetNeeded("call reset before step")
        actions = np.asarray(actions)
        number = self.single_action_space.n
        if actions.shape != (self.num_envs,) or not np.isin(actions, range(number)).all():
            raise ValueError(f"actions: {actions}, must be {self.num_envs} integers from 0 to {number - 1}")
        rewards, terminated = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        for i, world in enumerate(self.worlds):
            if self._done[i]:
                world.reset(self._generators[i])
                self._steps[i] = 0
            else:
                rewards[i], terminated[i] = world.step(actions[i])
                self._steps[i] += 1
        truncated = self._steps == self.max_episode_steps
        self._done = terminated | truncated
        return self._frames(), rewards, terminated, truncated, self._infos()

    def render(self):
        if self.render_mode is None:
            return None
        if self.worlds[-1].scene is None:
            raise ResetNeeded("call reset before render")
        return tuple(self._frames())

    def _frames(self):
        return np.stack([world.frame() for world in self.worlds])

    def _infos(self):
        truths, infos = [world.truth() for world in self.worlds], {}
        for name in truths[0]:
            infos[name] = np.stack([truth[name] for truth in truths])
            infos[f"_{name}"] = np.ones(self.num_envs, bool)  # Gymnasium's mask of the worlds that have the entry
        return infos


def _check_render_mode(mode, metadata):
    if mode is not None and mode not in metadata["render_modes"]:
        raise ValueError(f"render_mode: {mode!r}, must be None or one of {metadata['render_modes']}")
