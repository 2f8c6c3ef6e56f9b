"""Name tables of github.com/trihuynh88/multigrid_mem (TF 1.15): mapping_localization and mnist_recall.

Both scripts build their network below the literal scope `net_-1`. Convolutions are named `Variable`, `Variable_1`, ...
in order of creation: weight, bias, for each level of each layer, reader first.
"""

import itertools

from tfmem.checkpoints.base import Entry, name_table
from tfmem.models.multigrid import LocalizationModel, MNISTRecallModel


def _writer(writer):
    for number, layer in enumerate(writer.layers, start=1):
        for level, cell in enumerate(layer.cells):
            scope = f"net_-1/lstm_{number}_{level}"
            yield Entry(f"{scope}/conv_2d_lstm_cell/kernel", cell.kernel)
            yield Entry(f"{scope}/conv_2d_lstm_cell/biases", cell.bias)
            if writer.normalization:
                norm = writer.norms[number - 1][level]
                # The batch-norm scope repeats the LSTM's.
                yield Entry(f"{scope}/lstm_{number}_{level}/gamma", norm.gamma)
                yield Entry(f"{scope}/lstm_{number}_{level}/beta", norm.beta)


def _convolutions(stack, names, first_number):
    for index, layer in enumerate(stack.layers):
        for level, (kernel, bias) in enumerate(zip(layer.kernels, layer.biases, strict=True)):
            yield Entry(next(names), kernel)
            yield Entry(next(names), bias)
            if stack.normalization:
                norm = stack.norms[index][level]
                yield Entry(f"net_-1/conv_{first_number + index}_{level}/gamma", norm.gamma)
                yield Entry(f"net_-1/conv_{first_number + index}_{level}/beta", norm.beta)


def _build(model):
    if not model.built:  # its configuration holds all sizes
        model.build()


def _variable_names():
    yield "net_-1/Variable"
    yield from (f"net_-1/Variable_{n}" for n in itertools.count(1))


@name_table(LocalizationModel)
def localization(model):
    """Table of mapping_localization's network, for a model with 3x3 queries."""
    if model.query_sizes != (3,):
        raise ValueError(f"target: query_sizes {model.query_sizes}, must be (3,), as in the public code")
    _build(model)
    names = _variable_names()
    reader, decoder = model.readers[0], model.decoders[0]
    return [
        *_writer(model.writer),
        *_convolutions(reader, names, 1),
        *_convolutions(decoder, names, len(reader.layers) + 1),
    ]


@name_table(MNISTRecallModel)
def mnist_recall(model):
    """Table of mnist_recall's network."""
    _build(model)
    names = _variable_names()
    # The output layer is created first; the public code counts the decoder's layers from 10.
    return [
        Entry(next(names), model.classifier.kernel),
        Entry(next(names), model.classifier.bias),
        *_writer(model.writer),
        *_convolutions(model.reader, names, 1),
        *_convolutions(model.decoder, names, 10),
    ]
