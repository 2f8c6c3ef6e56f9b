"""Registration of this package's classes with Keras before their modules are imported.

Keras knows a registered class only after its module was imported. `import tfmem` imports neither TensorFlow nor Keras,
yet `keras.models.load_model` must then know all names. Each name is therefore registered with a stand-in that imports
the class when a file needs it. Registration happens at once if Keras is already imported, else right after its import.
"""

import importlib
import sys

HOMES = {
    "Agent": "tfmem.rl.agent",
    "ConvLSTM": "tfmem.cores.multigrid.conv_lstm",
    "ConvTorso": "tfmem.rl.agent",
    "CoreLocalizationModel": "tfmem.models.mapping_cells",
    "EncoderDecoder": "tfmem.models.sequence",
    "EntityMemory": "tfmem.cores.entity",
    "FrameTorso": "tfmem.rl.agent",
    "GridNormalization": "tfmem.cores.multigrid.layers",
    "Head": "tfmem.models.sequence",
    "LSTMStack": "tfmem.cores.lstm",
    "LanguageModel": "tfmem.models.language",
    "LocalizationModel": "tfmem.models.multigrid.localization",
    "LocalizingCell": "tfmem.models.mapping_cells",
    "LookupMemory": "tfmem.cores.lookup",
    "MLPTorso": "tfmem.rl.agent",
    "MNISTRecallModel": "tfmem.models.multigrid.recall",
    "MappingCell": "tfmem.models.mapping_cells",
    "MetalearnedMemory": "tfmem.cores.metalearned",
    "MultigridConv": "tfmem.cores.multigrid.layers",
    "MultigridConvLSTM": "tfmem.cores.multigrid.layers",
    "PlasticRNN": "tfmem.cores.plastic",
    "QuestionAnsweringModel": "tfmem.models.multigrid.question_answering",
    "RNN": "tfmem.rnn",
    "RecallModel": "tfmem.models.multigrid.recall",
    "SequenceModel": "tfmem.models.sequence",
    "SonnetAdam": "tfmem.optimizers",
    "SonnetCell": "tfmem.interop",
    "SonnetObject": "tfmem.interop",
    "SortModel": "tfmem.models.multigrid.sort",
    "TF1RMSprop": "tfmem.optimizers",
    "UniformFanIn": "tfmem.cores.multigrid.layers",
}


class _OnDemand:
    """Stand-in for a class until its module is imported, which then registers the class itself."""

    def __init__(self, name):
        self.name = name

    def from_config(self, config):
        return getattr(importlib.import_module(HOMES[self.name]), self.name).from_config(config)


def _register(keras):
    for name in HOMES:
        keras.saving.get_custom_objects().setdefault(f"tfmem>{name}", _OnDemand(name))


class _AfterKeras:
    """Import hook that delegates to the other finders and registers the names once `keras` was imported."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        others = [finder for finder in sys.meta_path if type(finder).__module__ != __name__]
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register(module)

            spec.loader.exec_module = execute_and_register
        return spec


if sys.modules.get("keras"):
    _register(importlib.import_module("keras"))  # waits where another thread is importing it
else:
    sys.meta_path.insert(0, _AfterKeras())
