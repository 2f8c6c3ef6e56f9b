"""IMPALA with Ray: actors in processes of their own, on this machine or a cluster, and the learner in this one.

    with ray_actors(experiment, 4) as pool:
        tfmem.training.train(experiment, "runs/mine", make_updates=pool)

Each actor has a share of the configuration's worlds and a copy of the agent. A call runs it for one unroll: it gets the
weights and the worlds' state (`ActorState`), and returns the record and the state after it. So the learner holds all
state between calls. Its checkpoints are those of the one-process engine, and a run may change its number of actors.

Order of the records:

- Fixed (the default): an update learns from one record of every actor, made with the weights of exactly `policy_lag`
  updates ago. With the same draws as in one process, the numbers are the same. With a lag of 1 or more, the actors act
  while the learner learns.
- By arrival (`max_lag`), as in IMPALA: an update learns from the first records that arrive, and an actor begins its
  next unroll with the newest weights. Records that are older than `max_lag` updates are dropped.

An actor has one call at a time. An actor that dies is started again and its call
made again. Worlds in the graph then continue from the learner's state. Gymnasium environments begin new episodes from
new seeds; the interrupted ones count as truncated.

Paper: Espeholt et al. 2018, section 3. Public code: scalable_agent has a queue of one record and measures no lag;
cleanba has a lag of exactly 1. Agents act where their worlds are; there is no inference for many actors in the learner.
"""

import collections
import contextlib
import os
import re
import signal
import socket
import sys
import threading
import time
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from tfmem.rl.learner import Carry, draws
from tfmem.rl.rollout import Trajectory, rollout
from tfmem.training import WorkerError, uses_xla
from tfmem.validation import check_integer, is_integer

MOST_FAILURES = 60  # of an actor without a record in between; a call to an actor that starts again fails after seconds
PATIENCE = 60.0  # seconds without a record until a line says so
METRICS = ("lag", "dropped_records", "actor_restarts")


@contextlib.contextmanager
def ray_actors(experiment, number, max_lag=None, address=None):
    """Context with the Ray actors of an agent's experiment, for `make_updates` of `tfmem.training.train`.

    Args:
      experiment: an `AgentExperiment`; actors import its class by its module's name.
      number: number of actors; it divides the configuration's `num_worlds`.
      max_lag: take records by arrival, at most so many updates old. Default None: the fixed order, with `policy_lag`.
      address: of a cluster, as for `ray.init`, whose machines have the same tfmem. Default None: Ray is started on this
        machine and ended with the context. Without effect in a process where Ray is initialized.

    Returns:
      An `ActorPool`.

    Raises:
      ValueError: an argument is out of its range, Ray is not installed, or no cluster has the address.
      WorkerError: (from training) an actor's world or agent raised an error, or an actor dies again and again.
    """
    worlds = experiment.config.num_worlds
    if not is_integer(number):
        raise ValueError(f"actors: {number!r}, must be a positive integer")
    if worlds % number:
        raise ValueError(f"actors: {number}, must divide num_worlds ({worlds})")
    if max_lag is not None:
        check_integer("max_lag", max_lag, 1)
    with ray_cluster(address, number, "actors") as ray:
        pool = ActorPool(ray, experiment, number, max_lag)
        try:
            yield pool
        finally:
            pool.close()


class Call(NamedTuple):
    """Unroll of an actor: its number for the draws, the version of its weights, and the state before it, arrays."""

    actor: int
    number: int
    version: int
    state: list


class Record(NamedTuple):
    """Result of a call: the entries' arrays."""

    call: Call
    entries: list


class ActorPool:
    """Ray actors, their calls and weights; a maker of updates as `tfmem.training.compiled_updates`.

    Actors start with the first update. `ray_actors` makes and closes a pool.

    Metrics besides the learner's: "lag", the mean age in updates of the weights behind the records; "dropped_records"
    and "actor_restarts" since the pool was made.

    Attributes:
      described: for config.json, what changes a run's numbers: "max_lag", if it has one.
      seconds: seconds so far of "waiting" for records, "learning" and "weights" (their way to the actors) in the
        learner, and of "acting" in all actors.
      actors: Ray's handles.
    """

    def __init__(self, ray, experiment, number, max_lag=None):
        self.ray, self.experiment, self.number, self.max_lag = ray, experiment, number, max_lag
        self.lag = experiment.config.policy_lag if max_lag is None else 0
        self.described = {} if max_lag is None else {"max_lag": max_lag}
        self.actors, self.carry = [], None
        self.calls = {}  # by their references
        self.records = collections.deque()
        self.failures, self.counts = [0] * number, collections.Counter()
        self.seconds = collections.Counter()
        self._learn = tf.function(self._learned, jit_compile=uses_xla(experiment.config), autograph=False)

    def __call__(self, experiment, num_updates):
        """Return the function of `num_updates` updates, as `compiled_updates`."""
        if experiment is not self.experiment:
            raise ValueError(f"experiment: {experiment!r}, must be the pool's")
        return _Updates(self, num_updates)

    def close(self):
        """End the actors."""
        for actor in self.actors:
            self.ray.kill(actor)
        self.actors = []
        self._forget()

    # Updates

    def begin(self, update, carry):
        """Start from a carry of the one-process engine, before an update; calls under way are forgotten."""
        if not self.actors:
            self._start()
        self._forget()
        self.template, self.episodes = carry.actor, carry.episodes
        shares = [np.split(leaf.numpy(), self.number) for leaf in tf.nest.flatten(carry.actor)]
        self.states = [[share[actor] for share in shares] for actor in range(self.number)]
        self.next_number = update * self.number  # by arrival alone
        slots = self.experiment.config.policy_lag + 1
        self.versions = {}
        for version in range(max(update - slots, 0), update if carry.weights else 0):
            self.versions[version] = self.ray.put([history[version % slots].numpy() for history in carry.weights])
        self._publish(update)

    def update(self, update):
        """Run one update; returns its metrics."""
        start = time.perf_counter()
        collect = self._collect if self.max_lag is None else self._collect_by_arrival
        records = collect(update)
        self.seconds["waiting"] += time.perf_counter() - start
        start = time.perf_counter()
        entries = [np.concatenate(parts, 1) for parts in zip(*(r.entries for r in records), strict=True)]
        states = [np.concatenate(parts) for parts in zip(*(r.call.state for r in records), strict=True)]
        core_state = tf.nest.pack_sequence_as(self.template, states).core_state
        entries = tf.nest.pack_sequence_as(self.template.entry, entries)
        lag = float(np.mean([update - r.call.version for r in records]))
        del records
        self.episodes, metrics = self._learn(tf.constant(update, tf.int64), entries, core_state, self.episodes)
        metrics = {name: float(value) for name, value in metrics.items()}
        self.seconds["learning"] += time.perf_counter() - start
        start = time.perf_counter()
        self._publish(update + 1)
        self.seconds["weights"] += time.perf_counter() - start
        return metrics | dict(zip(METRICS, (lag, self.counts["dropped"], self.counts["restarts"]), strict=True))

    def carried(self, update):
        """Return the `Carry` before an update; records that no update has learned from yet are made again after it."""
        waiting = {call.actor: call.state for call in self.calls.values()}
        for record in reversed(self.records):
            waiting[record.call.actor] = record.call.state
        states = [waiting.get(actor, self.states[actor]) for actor in range(self.number)]
        joined = [tf.constant(np.concatenate(parts)) for parts in zip(*states, strict=True)]
        weights, slots = (), self.experiment.config.policy_lag + 1
        if slots > 1:
            histories = [np.zeros([slots, *w.shape], w.dtype) for w in self.experiment.model.weights]
            for version in range(max(update - slots, 0), update):
                if version in self.versions:
                    for history, array in zip(histories, self.ray.get(self.versions[version]), strict=True):
                        history[version % slots] = array
            weights = tuple(map(tf.constant, histories))
        self.carry = Carry(tf.nest.pack_sequence_as(self.template, joined), self.episodes, weights)
        return self.carry

    def trace(self, carry):
        """Trace the learner's function; errors are those of an update that cannot be built."""
        length = self.experiment.config.unroll_length + 1

        def spec(leaf):
            return tf.TensorSpec(leaf.shape, leaf.dtype)

        entries = tf.nest.map_structure(lambda x: tf.TensorSpec([length, *x.shape], x.dtype), carry.actor.entry)
        core_state, episodes = (tf.nest.map_structure(spec, nest) for nest in (carry.actor.core_state, carry.episodes))
        self._learn.get_concrete_function(tf.TensorSpec([], tf.int64), entries, core_state, episodes)

    def _learned(self, update, entries, core_state, episodes):
        return self.experiment.learn_step(update, Trajectory(entries, core_state), episodes)

    # Calls

    def _start(self):
        share = self.experiment.config.num_worlds // self.number
        # Ray would keep a record of each of 100,000 calls for its dashboard.
        options = {"num_cpus": 1, "max_restarts": -1, "max_task_retries": 0, "enable_task_events": False}
        kind = self.ray.remote(Actor).options(**options)
        about = type(self.experiment), self.experiment.config
        self.actors = [kind.remote(*about, share * actor, share) for actor in range(self.number)]

    def _forget(self):
        self.calls, self.versions, self.carry = {}, {}, None
        self.records.clear()

    def _publish(self, version):
        """Store the current weights; drop those that neither a call nor a checkpoint needs."""
        self.versions[version] = self.ray.put([np.asarray(w) for w in self.experiment.model.weights])
        oldest = version - self.experiment.config.policy_lag - 1
        for old in [v for v in self.versions if v < oldest]:
            del self.versions[old]

    def _call(self, actor, number, version):
        self._make(Call(actor, number, version, self.states[actor]))

    def _make(self, call):
        weights = self.versions[call.version]
        reference = self.actors[call.actor].unroll.remote(call.number, call.version, weights, call.state)
        self.calls[reference] = call

    def _collect(self, update):
        """Wait for one record of every actor, in the actors' order; then call them for the next update."""
        self._call_all(update)
        while self.calls:
            self._arrive()
        records = sorted(self.records, key=lambda record: record.call.actor)
        self.records.clear()
        if self.lag and update + 1 < self.experiment.config.num_updates:
            self._call_all(update + 1)
        return records

    def _call_all(self, update):
        """Call the actors for an update, unless that was done before."""
        if not self.calls and not self.records:
            for actor in range(self.number):
                self._call(actor, update, max(update - self.lag, 0))

    def _collect_by_arrival(self, update):
        """Wait for as many records as there are actors; each actor is called again at once."""
        busy = {call.actor for call in self.calls.values()}
        for actor in range(self.number):
            if actor not in busy:
                self._call_next(actor, update)
        while True:
            fresh = [record for record in self.records if update - record.call.version <= self.max_lag]
            self.counts["dropped"] += len(self.records) - len(fresh)
            self.records = collections.deque(fresh)
            if len(fresh) >= self.number:
                return [self.records.popleft() for _ in range(self.number)]
            actor = self._arrive(update)
            if actor is not None:
                self._call_next(actor, update)

    def _call_next(self, actor, update):
        self._call(actor, self.next_number, update)
        self.next_number += 1

    def _arrive(self, newest=None):
        """Wait for the end of a call; returns its actor, or None if the actor died and the call is made again.

        Args:
          newest: version of the weights for a call that is made again. Default: that of the call.
        """
        ready, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=PATIENCE)
        while not ready:
            print(f"no actor has answered for {PATIENCE:.0f} s; the cluster may have no free CPUs", file=sys.stderr)
            ready, _ = self.ray.wait(list(self.calls), num_returns=1, timeout=PATIENCE)
        (reference,) = ready
        call, errors = self.calls.pop(reference), self.ray.exceptions
        try:
            entries, state, seconds = self.ray.get(reference)
        except errors.RayTaskError as error:
            raise WorkerError(f"actor {call.actor}: {error.cause}") from None
        except errors.ActorDiedError as error:
            raise WorkerError(f"actor {call.actor} cannot start: {str(error).strip().splitlines()[-1]}") from None
        except errors.RayError as error:
            # It may have made the call; later failures in a row are of calls to a process that starts.
            first = not self.failures[call.actor]
            if first and isinstance(error, errors.ActorUnavailableError | errors.ObjectLostError):
                self.ray.kill(self.actors[call.actor], no_restart=False)
            self.failures[call.actor] += 1
            self.counts["restarts"] += self.failures[call.actor] == 1
            if self.failures[call.actor] > MOST_FAILURES:
                raise WorkerError(f"actor {call.actor} failed {MOST_FAILURES} times in a row: {error}") from None
            self._make(call if newest is None else call._replace(version=newest))
            return None
        self.failures[call.actor] = 0
        self.seconds["acting"] += seconds
        # Arrays of Ray are views of shared memory, which a copy lets go.
        self.states[call.actor] = [np.array(leaf) for leaf in state]
        self.records.append(Record(call, entries))
        return call.actor


class Actor:
    """Some of an experiment's worlds with a copy of its agent, on one thread; a Ray actor.

    Args:
      kind, config: the experiment's class and configuration.
      first, number: of the worlds.
    """

    def __init__(self, kind, config, first, number):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.set_visible_devices([], "GPU")
        experiment = kind(config)
        self.agent, levels = experiment.model, experiment.levels
        world = _Share(experiment.world, first, config.num_worlds)
        carry = tf.function(experiment.initial_carry, autograph=False).get_concrete_function().structured_outputs
        self.template, self.version = carry.actor, None

        def run(number_of_unroll, state):
            uniforms, seeds = draws(config.seed, number_of_unroll, config.unroll_length, config.num_worlds)
            return rollout(self.agent, world, levels, state, uniforms[:, first : first + number], seeds)

        self._run = tf.function(run, jit_compile=uses_xla(config), autograph=False)

    def unroll(self, number, version, weights, state):
        """Run one unroll: arrays of the entries and of the state after them, and the seconds of it.

        Raises:
          RuntimeError: the world or the agent raised an error; TensorFlow's own errors cannot be sent.
        """
        start = time.perf_counter()
        if version != self.version:
            for variable, value in zip(self.agent.weights, weights, strict=True):
                variable.assign(value)
            self.version = version
        state = tf.nest.pack_sequence_as(self.template, [tf.constant(leaf) for leaf in state])
        try:
            state, trajectory = self._run(tf.constant(number, tf.int64), state)
        except (ValueError, tf.errors.OpError) as error:
            lines = str(error).strip().splitlines()
            raised = [line for line in lines if re.match(r"\w+Error: ", line)]  # by Python code that the graph calls
            raise RuntimeError((raised or [f"{type(error).__name__}: {lines[0]}"])[0]) from None
        entries, state = ([leaf.numpy() for leaf in tf.nest.flatten(nest)] for nest in (trajectory.entries, state))
        return entries, state, time.perf_counter() - start


class _Share:
    """Worlds from the number `first` on, of `total`: random decisions are drawn for all, so that they are the same."""

    def __init__(self, world, first, total):
        self.world, self.first, self.total = world, first, total

    def __getattr__(self, name):
        return getattr(self.world, name)

    def draw(self, seed, batch_size):
        decisions = self.world.draw(seed, self.total)
        return tf.nest.map_structure(lambda leaf: leaf[self.first : self.first + batch_size], decisions)


class _Updates:
    """Function of several updates, with the signature of `compiled_updates`."""

    def __init__(self, pool, num_updates):
        self.pool, self.num_updates = pool, num_updates

    def get_concrete_function(self, first_update, batches, carry):
        self.pool.trace(carry)

    def __call__(self, first_update, batches, carry):
        first = int(first_update)
        if carry is not self.pool.carry:
            self.pool.begin(first, carry)
        metrics = [self.pool.update(update) for update in range(first, first + self.num_updates)]
        stacked = {name: tf.constant([values[name] for values in metrics]) for name in metrics[0]}
        return self.pool.carried(first + self.num_updates), stacked


@contextlib.contextmanager
def ray_cluster(address, number, name):
    """Context with Ray initialized: the module. What is initialized before stays so.

    Args:
      address: of a cluster, as for `ray.init`; None: Ray is started on this machine and ended with the context.
      number: of CPUs that the cluster must have.
      name: of the argument that asks for them, for errors.

    Raises:
      ValueError: Ray is not installed, no cluster has the address, or it has too few CPUs.
    """
    try:
        import ray
    except ImportError:
        what = f"{name}: {number}, must be 0" if address is None else f"ray_address: {address!r}, must be None"
        raise ValueError(f"{what} without Ray: pip install ray") from None
    if address is not None and not _answers(address):  # Ray itself tries for minutes
        raise ValueError(f"ray_address: {address!r}, must be of a running cluster")
    started = not ray.is_initialized()
    if started:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # else Ray reports its use to its makers
        main = threading.current_thread() is threading.main_thread()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            cluster = {"address": "local", "num_cpus": number} if address is None else {"address": address}
            ray.init(**cluster, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
        except Exception as error:  # Ray raises this class itself where its processes start too slowly
            what = f"{name}: {number}, must be 0 where Ray cannot start"
            if address is not None:
                what = (
                    f"ray_address: {address!r}, must be of a running cluster; one with tokens needs RAY_AUTH_MODE=token"
                )
            raise ValueError(f"{what}: {error}") from None
        finally:
            if main:
                signal.signal(signal.SIGTERM, handler)
    try:
        cpus = int(ray.cluster_resources().get("CPU", 0))
        if cpus < number:
            raise ValueError(f"{name}: {number}, must be at most the cluster's CPUs ({cpus})")
        yield ray
    finally:
        if started:
            ray.shutdown()


def _answers(address):
    """False if nobody listens at HOST:PORT; True for any other form of address."""
    host, _, port = address.rpartition(":")
    if "/" in host or not host or not port.isdigit():
        return True
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except OSError:
        return False
    return True
