"""The papers' experiments: one folder per paper, one module per experiment; and any task with any core, supervised.

An experiment module has

    a docstring            its first line is the experiment's title
    Config                 frozen dataclass, a tfmem.training.RunConfig; the text below each field names its source
    PRESETS                {"paper": Config(...), "demo": ..., "smoke": ...}
    PAPER                  {metric: (the paper's number or None, where it stands)}
    DATASETS               names of the data sets it needs
    STATUS                 the presets that were trained to their end, and how far others; README.md has the numbers
    Experiment             a tfmem.training.Experiment, made from a Config
    Config.supports_mixed_precision  whether its models take `config.policy`; by default no, and the field is refused
    SIGNATURES             of its SavedModel, where they are not {"step", "sequence"}
    compare                function of run folders and a folder: the experiment's own pictures in `reproduce compare`

`reproduce list` reads docstring, PRESETS' keys, DATASETS and STATUS off the text: they are literals.

Modules without PRESETS are what their paper's experiments share.
"""

import ast
import difflib
import importlib
import os
import sys
import tempfile
from pathlib import Path

SUPERVISED = {"supervised": f"{__name__}.supervised"}  # any task with any core


def experiment_modules():
    """`{"<paper>/<experiment>": module name}` of all modules of papers that define PRESETS; imports none."""
    return {
        f"{path.parent.name}/{path.stem}": f"{__name__}.{path.parent.name}.{path.stem}"
        for path in sorted(Path(__file__).parent.glob("*/*.py"))
        if "PRESETS" in assigned(path.read_text("utf-8"))
    }


def assigned(source):
    """The names that the text of a module assigns, and the expressions, `ast.expr`s, by name."""
    found = {}
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            found |= {target.id: statement.value for target in statement.targets if isinstance(target, ast.Name)}
    return found


def load_experiment(name, modules=None):
    """The module of an experiment; a wrong name is an error before TensorFlow is imported, which takes seconds.

    Args:
      name: "<paper>/<experiment>".
      modules: as from `experiment_modules` (the default).

    Raises:
      ValueError: there is no experiment of that name.
    """
    modules = experiment_modules() if modules is None else modules
    if name not in modules:
        # "maping" alone is as near as "multigrid/maping".
        parts = {part: full for full in modules for part in (full, full.split("/")[-1])}
        near = dict.fromkeys(parts[part] for part in close(name, parts))
        raise ValueError(f"experiment: {name!r}, must be one of {', '.join(modules)}{did_you_mean(near)}")
    _import_tensorflow()
    return importlib.import_module(modules[name])


def _import_tensorflow():
    """Imports TensorFlow without its log lines; where the user has set TF_CPP_MIN_LOG_LEVEL, that decides.

    The lines of the import itself heed no level, so the error stream is set aside meanwhile.
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
    """Those of `words` that `word` may be a typing error of, the nearest first; case makes no difference."""
    lower = {w.lower(): w for w in words}
    return [lower[w] for w in difflib.get_close_matches(word.lower(), lower)]


def did_you_mean(near):
    """The end of a message about a word that does not exist; empty where nothing is near."""
    return f"; did you mean {' or '.join(near)}?" if near else ""
