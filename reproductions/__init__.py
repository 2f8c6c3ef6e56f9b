"""The papers' experiments: one folder per paper, one module per experiment; any task, or environment, with any core.

An experiment module has

    a docstring            its first line is the experiment's title
    Config                 frozen dataclass, a tfmem.training.RunConfig; the text below each field names its source
    PRESETS                {"paper": Config(...), "demo": ..., "smoke": ...}
    PAPER                  {metric: (the paper's number or None, where it stands)}
    DATASETS               names of its data sets
    STATUS                 presets trained to the end, and the progress of others; README.md has the numbers
    Experiment             a tfmem.training.Experiment, made from a Config
    Config.supports_mixed_precision  True if its models accept `config.policy`; by default the field is refused
    SIGNATURES             of its SavedModel, if they are not {"step", "sequence"}
    compare                function of run folders and a folder: draws the experiment's own figures for `reproduce
                           compare`, returns their names
    run_name               function of a preset's name and a Config: name of its run's folder; by default the preset's

`reproduce list` reads docstring, PRESETS' keys, DATASETS and STATUS from the text: they must be literals.

Modules without PRESETS are shared by their paper's experiments.
"""

import ast
import difflib
import importlib
import os
import sys
import tempfile
from pathlib import Path

GENERAL = {name: f"{__name__}.{name}" for name in ("supervised", "gymnasium")}  # any core on any task, in any world


def experiment_modules():
    """`{"<paper>/<experiment>": module name}` of all modules of papers that define PRESETS; imports none."""
    return {
        f"{path.parent.name}/{path.stem}": f"{__name__}.{path.parent.name}.{path.stem}"
        for path in sorted(Path(__file__).parent.glob("*/*.py"))
        if "PRESETS" in assigned(path.read_text("utf-8"))
    }


def assigned(source):
    """Expressions, `ast.expr`s, that the text of a module assigns, by name."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            found |= {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
    return found


def load_experiment(name, modules=None):
    """Import the module of an experiment; a wrong name is an error before the slow import of TensorFlow.

    Args:
      name: "<paper>/<experiment>".
      modules: as from `experiment_modules` (the default).

    Raises:
      ValueError: there is no experiment of that name.
    """
    modules = experiment_modules() if modules is None else modules
    if name not in modules:
        # "maping" alone is as close as "multigrid/maping".
        parts = {part: full for full in modules for part in (full, full.split("/")[-1])}
        near = dict.fromkeys(parts[part] for part in close(name, parts))
        raise ValueError(f"experiment: {name!r}, must be one of {', '.join(modules)}{did_you_mean(near)}")
    _import_tensorflow()
    return importlib.import_module(modules[name])


def _import_tensorflow():
    """Import TensorFlow without its log lines, unless the user has set TF_CPP_MIN_LOG_LEVEL.

    The import's own lines ignore the level, so the error stream is redirected meanwhile.
    """
    if "tensorflow" in sys.modules or "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as said, os.fdopen(os.dup(2), "wb") as errors:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            said.seek(0)
            errors.write(said.read())
            raise
        finally:
            os.dup2(errors.fileno(), 2)


def close(word, words):
    """Words that `word` may be a typing error of, the closest first; case is ignored."""
    lower = {w.lower(): w for w in words}
    return [lower[w] for w in difflib.get_close_matches(word.lower(), lower)]


def did_you_mean(near):
    """End of a message about an unknown word; empty if nothing is close."""
    return f"; did you mean {' or '.join(near)}?" if near else ""
