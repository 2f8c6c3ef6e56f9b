"""Figure 3 of the supplement for sorting and recall: what the memories of several runs hold over time, side by side.

python -m reproductions.multigrid._memories RUN [RUN ...] OUT.png
"""

import argparse
from pathlib import Path

from reproductions import experiment_modules
from reproductions.__main__ import _open_run
from tfmem import plotting
from tfmem.training.run_folder import RunFolderError


def memories(runs):
    """`{model: {memory: [T, rows, columns]}}` of run folders, each on the first sequence of its evaluation.

    Raises:
      RunFolderError: a run has no memory to show, or the model of a run before it.
    """
    models = {}
    for run in runs:
        _, experiment, _ = _open_run(run, experiment_modules())
        held = experiment.memory(experiment.evaluation_data(0)) if hasattr(experiment, "memory") else {}
        if not held:
            raise RunFolderError(f"{run} has no memory to show, must be of multigrid or dnc in sorting or recall")
        model = experiment.config.model
        if model in models:
            raise RunFolderError(f"{run} is of the model {model} as one before it, must be of another")
        models[model] = held
    return models


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a run with a memory")
    parser.add_argument("out", type=Path, metavar="OUT", help="picture to write")
    arguments = parser.parse_args(argv)
    try:
        plotting.memory_figure(memories(arguments.runs)).savefig(arguments.out, dpi=120)
    except RunFolderError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
