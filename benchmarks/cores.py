"""Seconds and memory of a training step of the cores, against an LSTM, the machine's rate, and T, slots and batch.

    python benchmarks/cores.py                     ratios at the papers' sizes, then growth; draws cores.png
    python benchmarks/cores.py rmc_small dnc RMC   some: sizes in lower case, growth by the names of the picture
    python benchmarks/cores.py --quick             fewer points and repeats
    python benchmarks/cores.py --xla               compiled by XLA

A training step is the unrolled core, a loss, its gradient and Adam. `LSTM` is the time of the same step with a
`keras.layers.LSTM` of equal parameters. `of rate` is the fraction of the machine's rate of matrix products; it counts
three times the forward step's FLOPs by TensorFlow, and is left out for cores whose own loop has other products. The
LSTMs' peer sums the gradients of its weights in every step, as the loop's derivative does (`tfmem.weight_gradients`).
The RMC's peer has the public code's order of work: it projects the input step by step and attends to it as one more row
of the memory. The peer of cores with a loop of their own runs in single steps. Every point runs in a separate process,
so that peak memory is its own.
"""

import argparse
import dataclasses
import json
import math

from measuring import growth, in_process, peak_gigabytes, print_rates, rates, seconds_of, without_scans

from tfmem.cores.config import (
    CoreConfig,
    DNCConfig,
    EntityMemoryConfig,
    KanervaConfig,
    LookupMemoryConfig,
    LSTMConfig,
    MetalearnedMemoryConfig,
    PlasticRNNConfig,
    RelationalMemoryConfig,
    RMAConfig,
)

# Cores at the sizes of the papers' appendices, inputs, batch and steps, the MLP that follows.
SETTINGS = {
    "rmc_small": dict(
        core=RelationalMemoryConfig(mem_slots=8, head_size=32, num_heads=8), features=40, batch=1600, steps=8, mlp=4
    ),
    "rmc_large": dict(
        core=RelationalMemoryConfig(mem_slots=8, head_size=256, num_heads=8), features=40, batch=64, steps=8, mlp=4
    ),
    "dnc": dict(
        core=DNCConfig(memory_size=500, word_size=16, num_reads=4, hidden_size=256, output_size=40),
        features=40, batch=16, steps=20, mlp=0,
    ),
    "rma": dict(
        core=RMAConfig(hidden_size=256, memory_size=1350, word_size=200, top_k=50, order="paper"),
        features=256, batch=16, steps=20, mlp=0,
    ),
    "kanerva": dict(
        core=KanervaConfig(hidden_size=512, memory_size=32, word_size=512), features=256, batch=16, steps=20, mlp=0
    ),
    "rmc_agent": dict(
        core=RelationalMemoryConfig(mem_slots=8, head_size=32, num_heads=4), features=64, batch=32, steps=20, mlp=0
    ),
    **{
        f"mnm_{write[0]}_{steps}".replace("_l_", "_p_"): dict(
            core=MetalearnedMemoryConfig(units=100, memory_size=100, word_size=100, write=write, initial_rate=0.05),
            features=100, batch=32, steps=steps, mlp=0,
        )
        for steps in (89, 441)
        for write in ("local", "gradient")
    },
    "lstm_stack": dict(core=LSTMConfig(units=1024, num_layers=2), features=64, batch=32, steps=20, mlp=0),
    "lstm_256": dict(core=LSTMConfig(units=256, num_layers=1), features=64, batch=16, steps=20, mlp=0),
    "lstm_512": dict(core=LSTMConfig(units=512, num_layers=1), features=64, batch=16, steps=20, mlp=0),
    "lstm_1024": dict(core=LSTMConfig(units=1024, num_layers=1), features=64, batch=16, steps=20, mlp=0),
}  # fmt: skip
_MNM = MetalearnedMemoryConfig(units=100, num_heads=4, memory_size=32, word_size=32, write="gradient")
GROWN = {
    "RMC": RelationalMemoryConfig(mem_slots=8, head_size=32, num_heads=4),
    "DNC": DNCConfig(memory_size=64, word_size=16, num_reads=4, hidden_size=256, output_size=40),
    "RMA": RMAConfig(hidden_size=256, memory_size=128, word_size=32, top_k=50, order="paper"),
    "Kanerva": KanervaConfig(hidden_size=512, memory_size=32, word_size=64),
    "MNM-g": _MNM,
    "MNM-p": dataclasses.replace(_MNM, write="local"),
    "SALU": LookupMemoryConfig(units=100, num_heads=4, word_size=32),
    "EntNet": EntityMemoryConfig(num_cells=32, units=32),
    "Plastic": PlasticRNNConfig(units=128),
    "LSTM": LSTMConfig(units=128, num_layers=2),
}
# Every other core comes with the defaults of its configuration.
_OTHERS = [kind for kind in CoreConfig.__subclasses__() if kind not in map(type, GROWN.values())]
GROWN |= {kind.__name__.removesuffix("Config"): kind() for kind in _OTHERS}
GROWTH = {name: dict(core=core, features=32, batch=16, steps=32, mlp=0) for name, core in GROWN.items()}
SLOTS = ("mem_slots", "num_cells", "memory_size")  # the field that holds the slots


def setting_of(name, axis=None, value=None):
    """The setting of a name, with another number of steps, slots or sequences."""
    setting = dict({**SETTINGS, **GROWTH}[name])
    if axis == "slots":
        (field,) = slots_of(setting["core"])
        changes = {field: value}
        if hasattr(setting["core"], "top_k"):
            changes["top_k"] = min(setting["core"].top_k, value)
        setting["core"] = dataclasses.replace(setting["core"], **changes)
    elif axis is not None:
        setting[axis] = value
    return setting


def slots_of(core):
    """The name of the field that holds a core's slots, in a list; an empty list where the core has none."""
    return [field for field in SLOTS if hasattr(core, field)]


def lstm_of(num_parameters, features):
    """Make a `keras.layers.LSTM` of about that many parameters."""
    import keras

    # 4 u (u + features + 1) = num_parameters
    half = (features + 1) / 2
    return keras.layers.LSTM(round(math.sqrt(half**2 + num_parameters / 4) - half), return_sequences=True)


def public_rmc(setting):
    """Function to the outputs [B, T, S M] of an RMC in the public code's order of work, with new weights."""
    import sonnet as snt
    import tensorflow as tf

    core = setting["core"]
    slots, heads, size = core.mem_slots, core.num_heads, core.head_size
    width = heads * size
    linears = {
        name: snt.Linear(n)
        for name, n in dict(x=width, qkv=3 * width, a=width, b=width, gate_x=2 * width, gate_m=2 * width).items()
    }
    norms = [snt.LayerNorm(-1, True, True) for _ in range(3)]

    def linear(name, x):
        flat = linears[name](tf.reshape(x, [-1, x.shape[-1]]))
        return tf.reshape(flat, [*x.shape[:-1], flat.shape[-1]])

    def step(x, memory):
        x = linear("x", x)[:, tf.newaxis]
        rows = tf.concat([memory, x], 1)
        qkv = tf.reshape(norms[0](linear("qkv", rows)), [rows.shape[0], slots + 1, heads, 3 * size])
        q, k, v = tf.split(tf.transpose(qkv, [0, 2, 1, 3]), 3, -1)
        attended = tf.nn.softmax(tf.matmul(q * size**-0.5, k, transpose_b=True)) @ v
        attended = tf.reshape(tf.transpose(attended, [0, 2, 1, 3]), rows.shape)
        rows = norms[1](rows + attended)
        rows = norms[2](linear("b", tf.nn.relu(linear("a", rows))) + rows)
        i, f = tf.split(linear("gate_m", tf.tanh(memory)) + linear("gate_x", x), 2, -1)
        return tf.sigmoid(i) * tf.tanh(rows[:, :-1]) + tf.sigmoid(f + 1.0) * memory

    def run(inputs):
        memory = tf.eye(slots, width, batch_shape=[inputs.shape[0]])
        for t in range(inputs.shape[1]):
            memory = step(inputs[:, t], memory)
        return tf.reshape(memory, [inputs.shape[0], 1, -1])

    module = snt.Module()
    module.parts = [*linears.values(), *norms]
    run(tf.zeros([1, 1, setting["features"]]))
    return run, list(module.trainable_variables)


def measure(changed, kind, repeats, xla):
    """Measure a training step of "tfmem", of the "lstm" of equal parameters or of the "public" order of work.

    "every_step" is tfmem with the gradients of weights summed in every step of the loop, "single_steps" tfmem without
    the core's own loop. `changed` holds the arguments of `setting_of`.
    """
    import numpy as np
    import tensorflow as tf

    from tfmem import weight_gradients
    from tfmem.models.sequence import Head
    from tfmem.recurrence import unroll

    if kind == "every_step":
        weight_gradients.LEAST_SHARE = math.inf
    elif kind == "single_steps":
        without_scans()

    setting = setting_of(*changed)
    batch, steps, features = (setting[k] for k in ("batch", "steps", "features"))
    rng = np.random.default_rng(0)
    inputs = tf.constant(rng.normal(size=[batch, steps, features]), tf.float32)
    core = setting["core"].make(steps)
    flops = 0
    if hasattr(core, "initial_state"):
        core(inputs[:1, 0], core.initial_state(1))
        start, variables = core.initial_state, list(core.trainable_variables)
    else:
        core.build((None, features))
        start, variables = core.get_initial_state, [v.value for v in core.trainable_variables]
    parameters = sum(math.prod(v.shape) for v in variables)

    def run(inputs):
        outputs, _ = unroll(core, tf.transpose(inputs, [1, 0, 2]), start(batch))
        outputs = tf.nest.flatten(outputs)[0]
        return tf.transpose(tf.reshape(outputs, [steps, batch, -1]), [1, 0, 2])

    if kind in ("tfmem", "every_step", "single_steps"):
        flops = forward_flops(core, start, inputs)
    elif kind == "lstm":
        layer = lstm_of(parameters, features)
        layer.build(inputs.shape)
        run, variables = layer, [v.value for v in layer.trainable_variables]
    else:
        run, variables = public_rmc(setting)
    head = Head(8, (256,) * setting["mlp"])
    width = tf.function(run).get_concrete_function(inputs).outputs[0].shape[-1]
    head.build((batch, width))
    trained = [*variables, *(v.value for v in head.trainable_variables)]
    slots = [(tf.Variable(tf.zeros_like(v)), tf.Variable(tf.zeros_like(v))) for v in trained]

    @tf.function(jit_compile=xla)
    def train(inputs):
        with tf.GradientTape() as tape:
            logits = head(run(inputs)[:, -1] if setting["mlp"] else run(inputs))
            loss = tf.reduce_mean(tf.square(logits - 0.5))
        for v, (m, s), g in zip(trained, slots, tape.gradient(loss, trained), strict=True):
            tf.raw_ops.ResourceApplyAdam(
                var=v.handle, m=m.handle, v=s.handle, beta1_power=0.9, beta2_power=0.999, lr=1e-4, beta1=0.9,
                beta2=0.999, epsilon=1e-8, grad=g,
            )  # fmt: skip
        return loss

    first, *times = seconds_of(lambda: train(inputs).numpy(), repeats + 1)
    return {
        **{k: v for k, v in setting.items() if k != "core"},
        "seconds": min(times),
        "median": float(np.median(times)),
        "first": first,
        "gigabytes": peak_gigabytes(),
        "parameters": parameters if kind == "tfmem" else sum(math.prod(v.shape) for v in variables),
        "gflop": 3 * steps * flops / 1e9,
    }


def forward_flops(core, start, inputs):
    """Count the FLOPs of one forward step by TensorFlow's profiler."""
    import tensorflow as tf

    step = tf.function(lambda x: core(x, start(inputs.shape[0]))).get_concrete_function(inputs[:, 0])
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    return tf.compat.v1.profiler.profile(step.graph, options=options).total_float_ops


# The peer of a core's kind, and what the peer is.
PEERS = {
    RelationalMemoryConfig: ("public", "the public order of work"),
    LSTMConfig: ("every_step", "gradients of weights summed in every step"),
    RMAConfig: ("single_steps", "single steps"),
    MetalearnedMemoryConfig: ("single_steps", "single steps"),
}


def at_paper_sizes(names, arguments, rate):
    print(f"{'core':10s} {'s/step':>8s} {'median':>8s} {'GB':>6s} {'parameters':>11s} {'GFLOP':>7s} {'of rate':>8s} "
          f"{'LSTM':>8s} {'ratio':>6s} {'first':>7s}")  # fmt: skip
    repeats = 3 if arguments.quick else 7
    for name in names:
        cost, lstm = (in_process(__file__, [name], kind, repeats, arguments.xla) for kind in ("tfmem", "lstm"))
        own_loop = PEERS.get(type(SETTINGS[name]["core"]), [None])[0] == "single_steps"
        share = "" if own_loop else f"{cost['gflop'] / cost['seconds'] / rate:.1%}"
        print(
            f"{name:10s} {cost['seconds']:8.3f} {cost['median']:8.3f} {cost['gigabytes']:6.2f} "
            f"{cost['parameters']:11,d} {cost['gflop']:7.1f} {share:>8s} "
            f"{lstm['seconds']:7.3f}s {cost['seconds'] / lstm['seconds']:6.2f} {cost['first']:6.1f}s",
            flush=True,
        )
        if type(SETTINGS[name]["core"]) in PEERS:
            kind, title = PEERS[type(SETTINGS[name]["core"])]
            peer = in_process(__file__, [name], kind, repeats, arguments.xla)
            print(
                f"{'':10s} {cost['seconds'] / peer['seconds']:.2f} of the time and "
                f"{cost['gigabytes'] / peer['gigabytes']:.2f} of the memory of {title} "
                f"({peer['seconds']:.3f} s, {peer['gigabytes']:.2f} GB)",
                flush=True,
            )


def with_growth(names, arguments):
    from tfmem import plotting

    axes = {"steps": (16, 32, 64, 128, 256), "slots": (16, 32, 64, 128, 256), "batch": (8, 16, 32, 64, 128)}
    panels = {(axis, cost): {} for cost in ("seconds", "GB") for axis in axes}
    for axis, values in axes.items():
        values = values[::2] if arguments.quick else values
        print(f"\ngrowth with {axis}: {values}; the power is that between the last two points")
        times, memories = panels[axis, "seconds"], panels[axis, "GB"]
        for name in names:
            if axis == "slots" and not slots_of(GROWTH[name]["core"]):
                continue
            points = [
                {
                    **in_process(__file__, [name, axis, v], "tfmem", 2 if arguments.quick else 4, arguments.xla),
                    "x": v,
                }
                for v in values
            ]
            times[name] = values, [p["seconds"] for p in points]
            memories[name] = values, [p["gigabytes"] for p in points]
            times_text = " ".join(f"{p['seconds']:8.4f}" for p in points)
            memory_text = " ".join(f"{p['gigabytes']:6.2f}" for p in points)
            power = growth(points, "x", "seconds")
            print(f"{name:8s} s/step {times_text}   time ~ {axis}^{power:.2f}   GB {memory_text}", flush=True)
    plotting.cost_figure(panels, "Cost of a training step", rows=2).savefig(arguments.out, dpi=110)
    print(f"written: {arguments.out}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join([*SETTINGS, *GROWTH])} (default: all)")
    parser.add_argument("--quick", action="store_true", help="fewer points and repeats")
    parser.add_argument("--xla", action="store_true", help="compiled by XLA")
    parser.add_argument("--out", default="cores.png", help="picture to write (default: cores.png)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        what = json.loads(arguments.one)
        print(json.dumps(rates() if what == ["rate"] else measure(*what)))
        return
    for name in arguments.names:
        if name not in SETTINGS | GROWTH:
            parser.error(f"NAME: {name}, must be one of {', '.join(SETTINGS | GROWTH)}")
    print("XLA" if arguments.xla else "plain graph")
    rate = print_rates(__file__)
    sizes, grown = ([name for name in arguments.names or table if name in table] for table in (SETTINGS, GROWTH))
    if sizes:
        at_paper_sizes(sizes, arguments, rate)
    if grown:
        with_growth(grown, arguments)


if __name__ == "__main__":
    main()
