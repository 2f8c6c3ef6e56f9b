"""Command `reproduce publish`: a finished run as a model of `tfmem.pretrained`, with a model card made from the run.

`open_published` is the way back: the experiment of a published model, with its trained weights.
"""

import json
import math
import shlex
import tempfile

from tfmem import pretrained
from tfmem.training.run_folder import RunFolder, RunFolderError, as_json, differences, run_config, run_result

from . import experiment_modules
from .catalog import number
from .report import finished_run, markdown
from .runs import UsageError, changed, file_name, load, open_run

LARGEST = 15 * 2**20  # bytes of all models in the package


def publish(path, modules):
    """Publish a finished run; returns the folder of the model.

    It is in the folder that `TFMEM_WEIGHTS_DIR` names, or else in the package of a clone, whose models have at most
    `LARGEST` bytes together.

    Args:
      path: run folder.
      modules: as from `reproductions.experiment_modules`.

    Raises:
      RunFolderError: the run is not finished or is damaged, or its checkpoint is not that of its result.
      UsageError: it has another core than its preset, or the package would be too large.
    """
    folder = RunFolder(path)
    about, result = run_config(folder), run_result(folder)
    if result is None:
        raise RunFolderError(
            f"{path} has no result.json, so it is not finished; its `reproduce run` command resumes it"
        )
    module, experiment, checkpoint = open_run(path, modules)
    if checkpoint.update != result["updates"]:
        raise RunFolderError(
            f"{path}: its newest checkpoint is of update {checkpoint.update}, must be of update {result['updates']}, "
            "as its result"
        )
    from tfmem.training import config_fields

    model, config = _published_form(experiment), as_json(config_fields(experiment.config))
    name = f"{about['experiment']}/{file_name(finished_run(folder, modules).setting)}"
    content = {
        "experiment": about["experiment"],
        "preset": about.get("preset"),
        "command": _command(about["experiment"], about.get("preset"), config, module),
        "config": config,
        "result": result,
    }
    card = model_card(name, content, module, experiment)
    root = _root()
    if root != pretrained.PACKAGED:
        return pretrained.save(root, name, model, content, card)
    with tempfile.TemporaryDirectory() as trial:
        new = _size(pretrained.save(trial, name, model, content, card))
        total = _size(root) - _size(root / name) + new
        if total > LARGEST:
            raise UsageError(
                f"{root}: {total / 2**20:.1f} MiB, must have at most {LARGEST / 2**20:.0f} MiB; "
                f"{pretrained.WEIGHTS_DIR} names another folder"
            )
    return pretrained.save(root, name, model, content, card)


def _published_form(experiment):
    """The experiment's Keras model, or the variables of its Sonnet modules by name, without the optimizer's."""
    from tfmem.backend import keras

    if isinstance(experiment.model, keras.Model):
        return experiment.model
    return {name: v for name, v in experiment.variables().items() if not name.startswith("optimizer/")}


def open_published(name, modules=None, **changes):
    """Open the experiment of a published model, with its trained weights.

    Args:
      name: one of `tfmem.pretrained.list()`.
      modules: as from `experiment_modules` (the default).
      **changes: fields of its configuration to replace, such as `batch_size`.

    Returns:
      The experiment.

    Raises:
      ValueError, CorruptDataError: as `tfmem.pretrained.load`.
      UsageError: there is no experiment of that name, it has no such fields, or with them other weights.
    """
    from tfmem.training import config_from_fields

    model, run, _ = pretrained.load(name)
    module = load(run["experiment"], experiment_modules() if modules is None else modules)
    config = config_from_fields(module.Config, run["config"])
    experiment = module.Experiment(changed(config, changes, run["experiment"]))
    variables, values = (
        [of[name] for name in sorted(of)] if isinstance(of, dict) else of.weights
        for of in (_published_form(experiment), model)
    )
    if [tuple(v.shape) for v in variables] != [tuple(v.shape) for v in values]:
        raise UsageError(f"changes: {changes}, must leave the weights of {name} as they are")
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return experiment


def _root():
    try:
        given = pretrained.weights_folder()
    except ValueError as error:
        raise UsageError(error) from None
    if given is None and not (pretrained.PACKAGED.parents[1] / "setup.py").exists():
        raise UsageError(f"{pretrained.WEIGHTS_DIR}: None, must name a folder, or tfmem must be a clone")
    return given or pretrained.PACKAGED


def _size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _command(experiment, preset, config, module):
    """Command that makes the run: its preset, seed and the options that differ from the preset's."""
    from tfmem.training import config_fields

    if preset not in [*module.PRESETS]:
        raise UsageError(f"preset: {preset!r}, must be one of {', '.join(module.PRESETS)}")
    arguments = ["reproduce", "run", experiment, "--preset", preset, "--seed", str(config["seed"])]
    for field, before, value in differences(as_json(config_fields(module.PRESETS[preset])), config):
        owner, dot, last = field.replace("_", "-").rpartition(".")
        if field == "seed":
            continue
        if last == "type" or isinstance(value, dict) or before == "absent":
            raise UsageError(f"{field}: {value!r}, must be as in the preset {preset!r}; other options may differ")
        if isinstance(value, bool):
            arguments.append(f"--{owner}{dot}{'' if value else 'no-'}{last}")
        else:
            arguments += [f"--{owner}{dot}{last}", *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(arguments)


def model_card(name, run, module, experiment):
    """Make a model card: model, data, use, result with its command, limits, license.

    Args:
      name: of the published model.
      run: as in `tfmem.pretrained.Pretrained`.
      module: of the experiment.
      experiment: with the published model.
    """
    from tfmem.backend import keras
    from tfmem.training import config_fields

    config, result = run["config"], run["result"]
    core = config.get("core")
    core = f", core {core['type'].removesuffix('Config')}" if isinstance(core, dict) else ""
    world = config.get("world") or config.get("task")
    data = [f"{world['type']}({_fields(world)})"] if isinstance(world, dict) else []
    data += module.DATASETS
    paper = result.get("paper", {})
    rows = [("metric", "this model", "paper", "place in the paper"), ("---",) * 4]
    for metric, value in result["ours"].items():
        stated = paper.get(metric, {"value": None, "source": ""})
        rows.append((f"`{metric}`", number(value), number(stated["value"]), stated["source"]))
    hardware, minutes = result.get("hardware", {}), result["wall_time_seconds"] / 60
    machine = ", ".join(hardware.get("devices", [])) or f"{hardware.get('cpu', 'CPU')}, {hardware.get('cores')} cores"
    model = experiment.model
    if isinstance(model, keras.Model):
        count, use = model.count_params(), ["import tfmem", "", f'model, run, card = tfmem.pretrained.load("{name}")']
    else:
        count = sum(math.prod(v.shape) for v in _published_form(experiment).values())
        use = [
            "from tfmem_reproductions.publish import open_published  # in a clone: reproductions.publish",
            "",
            f'experiment = open_published("{name}")',
        ]
    cpu = f", {result['cpu_time_seconds'] / 60:.0f} of CPU time" if "cpu_time_seconds" in result else ""
    training = f"{result['updates']:,} updates, seed {config['seed']}, {minutes:.0f} minutes{cpu} ({machine})"
    lines = [
        f"# {name}",
        "",
        " ".join(module.__doc__.strip().split("\n\n")[0].split()),
        "",
        markdown(("", "")),
        markdown(("---", "---")),
        markdown(("Model", f"`{type(model).__name__}`{core}, {count:,} parameters")),
        markdown(("Data", ", ".join(f"`{text}`" for text in data) or "generated by the experiment")),
        markdown(("Training", training)),
        markdown(("Versions", ", ".join(f"{n} {v}" for n, v in result.get("versions", {}).items()))),
        "",
        "## Use",
        "",
        "```python",
        *use,
        "```",
        "",
        "## Result",
        "",
        *map(markdown, rows),
        "",
        "The scores are those of the experiment's evaluation, at the end of this run:",
        "",
        "```sh",
        run["command"],
        "```",
        "",
        "## Limits",
        "",
        "One run of one seed. Nothing was measured on other data than the above.",
        *_settings(run, module, as_json(config_fields(module.PRESETS["paper"])) if "paper" in module.PRESETS else None),
        "",
        "## License",
        "",
        "The weights: Apache 2.0, as tfmem. "
        + (
            f"The data set has its publisher's license: {', '.join(module.DATASETS)}."
            if module.DATASETS
            else "The data are generated by tfmem."
        ),
    ]
    return "\n".join(lines)


def _settings(run, module, paper):
    """Lines of the fields in which a run differs from the preset "paper"."""
    if paper is None:
        return []
    left_out = {"seed", "updates_per_call", "log_every", "eval_every", "checkpoint_every", "checkpoint_seconds"}
    changed = [
        (f"`{field}`", f"`{json.dumps(new)}`", f"`{json.dumps(old)}`")
        for field, old, new in differences(paper, run["config"])
        if field not in left_out and "absent" not in (old, new)
    ]
    if not changed:
        return ["The settings are those of the preset `paper`."]
    head = [("setting", "this model", "preset `paper`"), ("---",) * 3]
    return ["The settings are not the paper's:", "", *map(markdown, [*head, *changed])]


def _fields(config):
    return ", ".join(f"{name}={value!r}" for name, value in config.items() if name != "type")
