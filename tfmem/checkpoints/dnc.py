"""TF 1 checkpoints of google-deepmind/dnc (with Sonnet 1's LSTM) into `DNC`."""

import numpy as np

from tfmem.checkpoints.base import Entry, name_table
from tfmem.cores.dnc.access import Interface
from tfmem.cores.dnc.core import DNC, LSTMController


@name_table(DNC)
def dnc(core):
    """The names below the scope of the public `dnc.DNC`, by default "dnc".

    The stored `w_gates` has the rows of the input first; the ten interface layers become one, side by side.
    """
    controller, access = core.controller, core.access
    if not isinstance(controller, LSTMController) or controller.num_layers != 1:
        raise ValueError(
            f"target: controller_config is {core.controller_config}; the public code's controller is one LSTM layer"
        )
    if not hasattr(core.output_linear, "w"):
        raise ValueError("target: the core is not built; call project_inputs with inputs of the right size first")
    (inputs,), (recurrent,) = controller.inputs, controller.recurrent
    input_size = inputs.w.shape[0]

    def blocks(kind):
        return tuple(f"memory_access/{block}/{kind}" for block in Interface._fields)

    def side_by_side(*blocks):
        if [b.shape[-1] for b in blocks] != list(access.interface_sizes):
            raise ValueError("the interface's layers have other sizes")
        return np.concatenate(blocks, axis=-1)

    return [
        Entry("lstm/w_gates", inputs.w, lambda w: w[:input_size]),
        Entry("lstm/w_gates", recurrent.w, lambda w: w[input_size:]),
        Entry("lstm/b_gates", inputs.b),
        Entry(blocks("w"), access.interface.w, side_by_side),
        Entry(blocks("b"), access.interface.b, side_by_side),
        Entry("output_linear/w", core.output_linear.w),
        Entry("output_linear/b", core.output_linear.b),
    ]
