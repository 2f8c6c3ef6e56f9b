"""Multigrid memory (Huynh, Maire & Walter, ICML 2020, "Multigrid Neural Memory"; github.com/trihuynh88/multigrid_mem).

A pyramid is a tuple of grids whose sides double from one to the next. `routing` gives a level of a layer its input from
the previous layer's pyramid. A multigrid convolution (`layers`) applies a convolution and ReLU to it. A multigrid
memory layer applies a convolutional LSTM (`conv_lstm`), whose cell is the memory.
"""

from tfmem.cores.multigrid.conv_lstm import ConvLSTM, ConvLSTMState, conv_lstm_scan, lstm_gates
from tfmem.cores.multigrid.layers import GridNormalization, MultigridConv, MultigridConvLSTM, UniformFanIn
from tfmem.cores.multigrid.routing import check_sizes, downsample, routed_convolution, sources, upsampled_convolution

__all__ = [
    "ConvLSTM",
    "ConvLSTMState",
    "GridNormalization",
    "MultigridConv",
    "MultigridConvLSTM",
    "UniformFanIn",
    "check_sizes",
    "conv_lstm_scan",
    "downsample",
    "lstm_gates",
    "routed_convolution",
    "sources",
    "upsampled_convolution",
]
