"""Name table of github.com/google-deepmind/dnc (with Sonnet 1's LSTM)."""

import numpy as np

from tfmem.checkpoints.base import Entry, name_table, require_built, split
from tfmem.cores.dnc.access import Interface
from tfmem.cores.dnc.core import DNC, LSTMController


@name_table(DNC)
def dnc(core):
    """Names below the scope of the public `dnc.DNC`, by default "dnc".

    The stored `w_gates` has the rows of the input first; the ten interface layers are joined into one.
    """
    controller, access = core.controller, core.access
    if not isinstance(controller, LSTMController) or controller.num_layers != 1:
        raise ValueError(
            f"target: controller_config {core.controller_config}, must be one LSTM layer, as in the public code"
        )
    require_built(core, hasattr(core.output_linear, "w"))
    (inputs,), (recurrent,) = controller.inputs, controller.recurrent

    def interface(kind, variable):
        names = tuple(f"memory_access/{block}/{kind}" for block in Interface._fields)
        shapes = tuple((*variable.shape[:-1], size) for size in access.interface_sizes)
        return Entry(names, variable, lambda *blocks: np.concatenate(blocks, axis=-1), shapes)

    return [
        *split("lstm/w_gates", inputs.w, recurrent.w),
        Entry("lstm/b_gates", inputs.b),
        interface("w", access.interface.w),
        interface("b", access.interface.b),
        Entry("output_linear/w", core.output_linear.w),
        Entry("output_linear/b", core.output_linear.b),
    ]
