"""Use a card for a bounded time: matrix rate, cost of each bundle's update, then training in order of worth.

    python benchmarks/gpu_queue.py BUNDLES --budget 480 --out OUT

BUNDLES is a folder of bundles (`reproduce compile`). It needs numpy and jax, and h5py for bundles of worlds; the guide
is docs/gpu_queue.md. All bundles compile at once, in a process each. One process at a time then uses the device: it
measures at least 20 updates, and later trains for its share of the remaining time. OUT/results.json is rewritten
after each event, and OUT/runs.tar.00, ... hold the run folders, so that a cut loses little. The same command resumes.
"""

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from gpu_archive import MIB, pack_runs

from tfmem.aot.bundle import BundleError, open_source, read_bundle, read_manifest
from tfmem.training.loop import TrainingDivergedError, TrainingInterrupted
from tfmem.training.run_folder import (
    RunFolder,
    RunFolderError,
    as_json,
    differences,
    write_atomically,
    write_json,
)

UPDATES = 20
REFERENCE = "reference.json"
PART_BYTES = 15 * MIB
PACKING_SECONDS = 12.0
CHECKPOINT_SECONDS = 45.0
# Experiment, words of the preset, share of the training time. The most informative per minute comes first.
ORDER = (
    ("relational/box_world", "demo_conv_lstm", 2.5),
    ("relational/box_world", "paper", 6.0),
    ("relational/box_world", "paper_conv_lstm", 3.0),
    ("relational/mini_pacman", "paper", 2.0),
    ("relational/mini_pacman", "paper_lstm", 1.5),
    ("metalearned/dictionary_inference", "paper_8_4", 2.0),
    ("metalearned/double_copy", "paper", 1.5),
    ("relational/nth_farthest", "paper", 1.0),
    ("relational/nth_farthest", "paper_lstm", 1.0),
    ("metalearned/dictionary_inference", "paper_12_8", 1.0),
    ("multigrid/mnist_recall", "paper", 2.0),
    ("relational/program_evaluation", "paper", 1.5),
    ("belief_states/random_city", "paper", 1.0),
    ("multigrid/mapping", "paper", 1.0),
    ("metalearned/maze", "paper", 1.0),
    ("metalearned/maze", "paper_mnm_g", 1.0),
    ("metalearned/maze", "paper_plastic", 1.0),
)


def rank(manifest):
    """(place in ORDER, share of the training time) of a bundle; those not in ORDER come last with a share of 1."""
    for place, (experiment, preset, share) in enumerate(ORDER):
        if (manifest["experiment"], manifest["preset"]) == (experiment, preset):
            return place, share
    return len(ORDER), 1.0


def bundles_in(folder):
    """Bundles in a folder, `{name: path}`, in order of worth."""
    found = {path.parent.name: path.parent for path in sorted(Path(folder).glob("*/manifest.json"))}
    if not found:
        raise SystemExit(f"BUNDLES: {folder}, must hold folders that `reproduce compile` wrote")
    return dict(sorted(found.items(), key=lambda item: rank(read_manifest(item[1]))[0]))


# ---- a worker: one bundle in a process of its own --------------------------------------------------------------------


def say(event, **values):
    """Send an event to the process that started this one."""
    print(json.dumps({"event": event, **values}), file=sys.__stdout__, flush=True)


def work(path, folder, precision):
    """Compile a bundle, then obey the lines of standard input: `measure`, `train SECONDS`."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    from tfmem.aot.runner import BundleRun, Executable
    from tfmem.aot.stablehlo import arithmetic

    bundle, folder = read_bundle(path), RunFolder(folder, keep=1)
    folder.claim(run_config(bundle, precision))
    run = BundleRun(bundle, folder, bundle.config["num_updates"], precision)
    run.schedule.checkpoint_seconds = min(run.schedule.checkpoint_seconds, CHECKPOINT_SECONDS)
    executables = {precision: run.executable}
    if precision != "float32":
        executables["float32"] = Executable(bundle.programs["update"], "float32")
    device, flops = run.executable.device, arithmetic(bundle.programs["update"].text) / bundle.updates_per_call
    say("compiled", device=device.device_kind, update=run.update, gflop=flops / 1e9)
    for line in sys.stdin:
        command, *arguments = line.split()
        if command == "measure":
            reference = reference_losses(path)
            costs = {name: measure(run, executable, reference) for name, executable in executables.items()}
            for name in [name for name in executables if name != precision]:
                del executables[name]
            say("measured", costs=costs)
        else:
            train(run, float(arguments[0]))


def end_with(parent):
    """End this process when its parent ends, so that the folder's lock and the device are free."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def run_config(bundle, precision):
    """Config.json of a bundle's run, as `tfmem.aot.runner.run_bundle` writes it."""
    about = {"experiment": bundle.experiment, "preset": bundle.preset, "config": bundle.config}
    return about | {"bundle": {"manifest": bundle.digest, "precision": precision}}


def reference_losses(path):
    """First losses on a CPU from a bundle's folder; [] without."""
    try:
        return json.loads((Path(path) / REFERENCE).read_text())["losses"]
    except FileNotFoundError:
        return []


def first_updates(bundle, executable, number):
    """Yield (losses, seconds) of each call, for at least `number` updates from the bundle's start."""
    from tfmem.aot.runner import stacked

    size, source = bundle.updates_per_call, bundle.data_sources["train"]
    source = open_source(source) if source else None
    values = {name: executable.put(array) for name, array in bundle.initial.items()}
    for first in range(0, number, size):
        batches = [source.batch(n) for n in range(first, first + size)] if source else []
        given = {"number": np.int64(first), **(executable.batch(stacked(batches)) if source else {})}
        given = {name: executable.put(array) for name, array in given.items()}
        began = time.perf_counter()
        results = executable(values | given)
        losses = np.asarray(results["metrics/loss"]).tolist()
        yield losses, time.perf_counter() - began
        values |= {name: x for name, x in results.items() if not name.startswith("metrics/")}


def measure(run, executable, reference):
    """Measure time, memory and first losses of an executable."""
    from tfmem.aot.runner import peak_memory

    calls = list(first_updates(run.bundle, executable, max(UPDATES, 2 * run.bundle.updates_per_call)))
    losses, times = [loss for losses, _ in calls for loss in losses], [seconds for _, seconds in calls]
    same = min(len(losses), len(reference))
    errors = np.abs(np.subtract(losses[:same], reference[:same]) / np.maximum(np.abs(reference[:same]), 1e-9))
    return {
        "seconds_to_compile": executable.seconds,
        "seconds_per_update": min(times[1:]) / run.bundle.updates_per_call,
        "mib_of_a_call": executable.memory / MIB,
        "mib_at_peak": peak_memory(executable.device) / MIB,
        "losses": losses,
        "compared_losses": same,
        "largest_relative_error": float(errors.max()) if same else None,
    }


def train(run, seconds):
    """Train for `seconds`, then evaluate and report the progress."""
    before, start = run.update, time.monotonic()
    timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    problem = None
    try:
        run.run()
    except TrainingInterrupted:
        pass
    except TrainingDivergedError as error:
        problem = str(error)
    finally:
        timer.cancel()
    trained = time.monotonic() - start
    scores = run.evaluate() if problem is None else None
    say("trained", start=before, end=run.update, seconds=trained, scores=scores, problem=problem)


def rate():
    """Measure the device's matrix rate in TFLOP/s for each precision."""
    import jax
    import jax.numpy as jnp

    device = jax.devices()[0]
    n = 8192 if device.platform != "cpu" else 1024
    found = {}
    for name, dtype, precision in (
        ("float32", jnp.float32, "highest"),
        ("tf32", jnp.float32, "tensorfloat32"),
        ("bfloat16", jnp.bfloat16, "default"),
    ):
        a = jax.random.normal(jax.random.key(0), (n, n), jnp.float32).astype(dtype)
        product = jax.jit(lambda a, precision=precision: jnp.matmul(a, a, precision=precision))
        product(a).block_until_ready()
        times = []
        for _ in range(5):
            start = time.perf_counter()
            product(a).block_until_ready()
            times.append(time.perf_counter() - start)
        found[name] = 2 * n**3 / min(times) / 1e12
    say("rated", device=device.device_kind, rate=found, jax=jax.__version__)


# ---- the queue -------------------------------------------------------------------------------------------------------


class Item:
    """Handle of a worker in the queue."""

    def __init__(self, name, path, arguments, events, log):
        self.name, self.path, self.state, self.reached = name, path, "compiling", 0.0
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3", **os.environ},
        )
        threading.Thread(target=self._listen, args=(events,), daemon=True).start()

    def _listen(self, events):
        for line in self.process.stdout:
            with contextlib.suppress(json.JSONDecodeError):
                events.put((self, json.loads(line)))
        events.put((self, {"event": "ended", "status": self.process.wait()}))

    def send(self, line):
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()

    def stop(self):
        """End the process: by SIGTERM and the end of its input, so that it saves; then kill it."""
        if self.state == "training":
            self.process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        if self.state != "training":
            self.process.kill()
        try:
            self.process.wait(PACKING_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()


class Queue:
    """Queue of one call; see the top of this file."""

    def __init__(self, options):
        self.options, self.start = options, time.monotonic()
        self.deadline = self.start + options.budget - PACKING_SECONDS
        self.out, self.folders = options.out, options.runs or options.out.with_name(options.out.name + ".runs")
        self.out.mkdir(parents=True, exist_ok=True)
        self.events, self.items, self.rater = queue.Queue(), [], None
        self.log = (self.out / "log.txt").open("a")
        self.results = {"items": {}}
        if (self.out / "results.json").exists():
            self.results = json.loads((self.out / "results.json").read_text())
        self.paths = bundles_in(options.bundles)
        self.waiting = list(self.paths)

    def record(self, name, **values):
        self.results["items"].setdefault(name, {}).update(values)
        write_json(self.out / "results.json", self.results)

    def begin(self):
        """Start the next worker."""
        name = self.waiting.pop(0)
        manifest, folder = read_manifest(self.paths[name]), self.folders / name
        config = manifest["config"]
        about = {key: manifest[key] for key in ("experiment", "preset")}
        self.record(name, **about, seed=config["seed"], batch_size=config.get("batch_size"), error=None)
        if not folder.exists():
            resume_from(self.options.resume, name, self.paths[name], folder, self.options.precision)
        arguments = ("--worker", str(self.paths[name]), "--runs", str(folder), "--precision", self.options.precision)
        self.items.append(Item(name, self.paths[name], arguments, self.events, self.log))

    def run(self):
        """Work until all is trained or the budget is spent."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._cut)
        if "rate" not in self.results:
            self.rater = Item("rate", None, ("--rate",), self.events, self.log)
        for _ in range(min(self.options.jobs, len(self.waiting))):
            self.begin()
        while time.monotonic() < self.deadline and (self.busy() or self.next_command()):
            try:
                item, event = self.events.get(timeout=max(0.0, min(1.0, self.deadline - time.monotonic())))
            except queue.Empty:
                continue
            kind = event.pop("event")
            self.handle(item, kind, event)
            if item is self.rater and kind == "ended":
                self.rater = None
        self.finish()

    def _cut(self, number, frame):
        self.deadline = time.monotonic()

    def busy(self):
        return any(item.state in ("measuring", "training") for item in self.items)

    def next_command(self):
        """Give the device to the next worker; return whether there is anything left to wait for."""
        if self.rater is not None:
            return True
        ready = sorted(self.items, key=lambda item: list(self.paths).index(item.name))
        compiling = [item for item in ready if item.state == "compiling"]
        for item in ready:
            if item.state == "compiled":
                if self.results["items"][item.name].get("costs"):
                    item.state = "measured"
                else:
                    item.state = "measuring"
                    item.send("measure")
                return True
        late = time.monotonic() - self.start > self.options.budget / 3
        measured = [item for item in ready if item.state == "measured"]
        if not measured and not compiling and not self.waiting:  # all had their share: spend the rest in order
            measured = [item for item in ready if item.state == "trained" and not self.finished(item)]
        if measured and (late or (not compiling and not self.waiting)):
            item, shares = measured[0], [rank(read_manifest(i.path))[1] for i in (*measured, *compiling)]
            left = self.deadline - time.monotonic()
            seconds = left * shares[0] / sum(shares) - 3.0  # evaluation and checkpoint
            if seconds > 5:
                item.state = "training"
                item.send(f"train {seconds:.1f}")
                return True
            return False
        return bool(compiling or self.waiting)

    def finished(self, item):
        return self.results["items"][item.name]["update"] >= read_manifest(item.path)["config"]["num_updates"]

    def handle(self, item, kind, event):
        print(f"{time.monotonic() - self.start:6.1f} s {item.name}: {kind} {brief(event)}", flush=True)
        match kind:
            case "rated":
                self.results |= event
                write_json(self.out / "results.json", self.results)
            case "compiled":
                item.state = kind
                self.record(item.name, **event)
                if self.waiting:
                    self.begin()
            case "measured":
                item.state = kind
                self.record(item.name, **event)
            case "trained":
                item.state = kind
                history = self.results["items"][item.name].get("training", [])
                self.record(item.name, training=[*history, event], update=event["end"])
                self.pack()
            case "ended":
                if item.state not in ("trained", "ended") and item.path:
                    self.record(item.name, error=f"the process ended with status {event['status']}; see log.txt")
                if self.waiting and item.state == "compiling" and item.path:
                    self.begin()
                item.state = "ended"

    def finish(self):
        for item in [*self.items, *([self.rater] if self.rater else [])]:
            if item.state != "ended":
                item.stop()
        self.pack()
        print(table(self.results))

    def pack(self):
        """Write the run folders as parts of one archive, OUT/runs.tar.NN."""
        with tempfile.TemporaryFile() as file:
            notes = pack_runs([self.folders / name for name in self.paths], file, self.options.pack_mib * MIB)
            for name, note in notes.items():
                self.record(name, packed=note)
            size = file.tell()
            file.seek(0)
            count = -(-size // PART_BYTES)
            for number in range(count):
                part = file.read(PART_BYTES)
                write_atomically(self.out / f"runs.tar.{number:02d}", lambda f, part=part: f.write(part))
            for old in self.out.glob("runs.tar.*"):
                if int(old.suffix[1:]) >= count:
                    old.unlink()


def brief(event):
    """Format an event in one line, with short numbers and without lists."""
    if isinstance(event, dict):
        shown = {k: v for k, v in event.items() if not isinstance(v, list) and v is not None}
        return "{" + ", ".join(f"{k}: {brief(v)}" for k, v in shown.items()) + "}"
    return f"{event:.4g}" if isinstance(event, float) else str(event)


def resume_from(source, name, bundle, folder, precision):
    """Copy an earlier run of the same configuration from `source` to `folder`, if there is one.

    The bundle may have been recompiled since; `BundleRun` checks names and shapes of the checkpoint. A field that an
    older version of the experiment lacks is as in the bundle.
    """
    old = RunFolder(Path(source) / name) if source else None
    if old is None or not old.config_path.exists():
        return
    about, new = old.config(), RunFolder(folder)
    config = run_config(read_bundle(bundle), precision)
    found = differences(about["config"], as_json(config["config"]))
    changed = [field for field, before, _ in found if before != "absent"]
    if changed or about["experiment"] != config["experiment"]:
        print(f"{name}: an earlier run of another configuration ({', '.join(changed)}) is not resumed", flush=True)
        return
    if found:
        print(
            f"{name}: the earlier run has no {', '.join(field for field, _, _ in found)}; as in the bundle", flush=True
        )
    new.claim(config)
    for path in (*old.checkpoints.glob("checkpoint-*.npz"), old.metrics_path):
        if path.exists():
            shutil.copy2(path, new.path / path.relative_to(old.path))
    new.release()


# ---- what is printed, and the command line ---------------------------------------------------------------------------


def table(results):
    """Format the results as lines of text."""
    rates = results.get("rate", {})
    lines = [f"{results.get('device', 'no device')}: " + ", ".join(f"{k} {v:.3g} TFLOP/s" for k, v in rates.items())]
    head = ["bundle", "precision", "compile s", "ms/update", "samples/s", "TFLOP/s", "share", "MiB", "error"]
    head += ["updates", "scores"]
    rows = [head]
    for name, about in results["items"].items():
        training = about.get("training", [])
        scores = training[-1]["scores"] if training else None
        last = [str(about.get("update", 0)), brief(scores) if scores else "-"]
        if about.get("error"):
            rows.append([name, about["error"], *["-"] * 7, *last])
        for precision, cost in about.get("costs", {}).items():
            seconds = cost["seconds_per_update"]
            speed = about["gflop"] / 1e3 / seconds
            error = cost["largest_relative_error"]
            samples = about["batch_size"]
            rows.append(
                [
                    name,
                    precision,
                    f"{cost['seconds_to_compile']:.1f}",
                    f"{seconds * 1e3:.3g}",
                    f"{samples / seconds:.4g}" if samples else "-",
                    f"{speed:.3g}",
                    f"{speed / rates[precision]:.0%}" if rates else "-",
                    f"{cost['mib_of_a_call']:.0f}",
                    "-" if error is None else f"{error:.1e} of {cost['compared_losses']}",
                    *last,
                ]
            )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return "\n".join([*lines, *("  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows)])


def write_references(bundles, seconds, updates):
    """Write the first losses on this machine's CPU into the bundles' folders.

    Each bundle has a process for at most `seconds`, with the time to compile. Losses are written after each call, so
    those of a stopped process stay. A bundle with `updates` losses is left as it is.
    """
    for name, path in bundles_in(bundles).items():
        command, start = [sys.executable, __file__, "--refer", str(path), "--updates", str(updates)], time.monotonic()
        if len(reference_losses(path)) < updates:
            with contextlib.suppress(subprocess.TimeoutExpired):
                subprocess.run(command, timeout=seconds, check=False, env={**os.environ, "JAX_PLATFORMS": "cpu"})
        losses = reference_losses(path)
        ends = f", {losses[0]:.6g} ... {losses[-1]:.6g}" if losses else ""
        print(f"{name}: {len(losses)} losses{ends}, {time.monotonic() - start:.1f} s", flush=True)


def refer(path, updates):
    """Compile a bundle's update for the CPU and write its first losses, after each call."""
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    from tfmem.aot.runner import Executable

    bundle, losses, old = read_bundle(path), [], reference_losses(path)
    executable = Executable(bundle.programs["update"], "float32")
    about = {"device": executable.device.device_kind, "seconds_to_compile": executable.seconds}
    for more, seconds in first_updates(bundle, executable, updates):
        losses += more
        if len(losses) > len(old):
            write_json(path / REFERENCE, {"losses": losses, **about, "seconds_of_a_call": seconds})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("bundles", nargs="?", type=Path, metavar="BUNDLES", help="folder of bundles")
    parser.add_argument("--budget", type=float, default=480.0, help="seconds in all (default: 480)")
    parser.add_argument("--out", type=Path, help="folder to write")
    parser.add_argument("--runs", type=Path, help="folder of the run folders (default: OUT.runs)")
    parser.add_argument("--resume", type=Path, help="folder of earlier runs (TFMEM_QUEUE_DIR)")
    parser.add_argument("--precision", default="tf32", choices=("float32", "tf32", "bfloat16"), help="of training")
    parser.add_argument("--jobs", type=int, default=max(1, (os.cpu_count() or 2) // 2), help="bundles compiled at once")
    parser.add_argument("--pack-mib", type=float, default=58.0, help="most MiB of runs.tar.* (default: 58)")
    parser.add_argument(
        "--reference", type=float, metavar="SECONDS", help="only write the first losses of this CPU, so long a bundle"
    )
    parser.add_argument("--updates", type=int, default=UPDATES, help="of a reference (default: 20)")
    parser.add_argument("--refer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rate", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.rate:
            rate()
        elif options.refer:
            refer(options.refer, options.updates)
        elif options.worker:
            with contextlib.redirect_stdout(sys.stderr):
                work(options.worker, options.runs, options.precision)
        elif options.bundles is None or (options.out is None and options.reference is None):
            parser.error("BUNDLES and --out (or --reference) are required")
        elif options.reference is not None:
            write_references(options.bundles, options.reference, options.updates)
        elif options.budget <= 2 * PACKING_SECONDS:
            parser.error(f"--budget: {options.budget:g}, must be greater than {2 * PACKING_SECONDS:g}")
        else:
            Queue(options).run()
    except (BundleError, RunFolderError) as error:
        sys.exit(f"gpu_queue: error: {error}")


if __name__ == "__main__":
    main()
