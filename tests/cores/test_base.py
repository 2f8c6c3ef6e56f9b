"""Checks that all cores share: valid sizes."""

import json

import keras
import numpy as np
import pytest

import tfmem
from tfmem.cores import (
    DNC,
    ConvLSTM,
    EntityMemory,
    KanervaCore,
    KanervaMemory,
    LookupMemory,
    LSTMStack,
    MetalearnedMemory,
    MultigridConv,
    MultigridConvLSTM,
    PlasticRNN,
    RelationalMemory,
    RMACore,
    TVTCore,
)
from tfmem.validation import is_integer

SIZED = {
    "DNC": lambda n: DNC({"memory_size": n, "word_size": n}, {"hidden_size": n}, n),
    "RelationalMemory": lambda n: RelationalMemory(n, n, n),
    "RMACore": lambda n: RMACore(n, n, n, n, top_k=n),
    "KanervaCore": lambda n: KanervaCore(n, n, n, projection_hidden_size=n),
    "TVTCore": lambda n: TVTCore(n, n, n, memory_size=n, memory_top_k=n),
    "PlasticRNN": PlasticRNN,
    "LSTMStack": lambda n: LSTMStack(n, n),
    "EntityMemory": lambda n: EntityMemory(n, n),
    "LookupMemory": lambda n: LookupMemory(n, n, n, n, n),
    "MetalearnedMemory": lambda n: MetalearnedMemory(n, n, n, n, n, recall_delay=n, return_meta_loss=True),
    "ConvLSTM": lambda n: ConvLSTM(n, n),
    "MultigridConvLSTM": lambda n: MultigridConvLSTM((n, 2 * n), n),
    "MultigridConv": lambda n: MultigridConv((n, 2 * n), n),
}
NOT_SIZES = {
    "memory_size": lambda n: DNC({"memory_size": n, "word_size": 3}, {"hidden_size": 3}, 3),
    "output_size": lambda n: DNC({"memory_size": 3, "word_size": 3}, {"hidden_size": 3}, n),
    "mem_slots": lambda n: RelationalMemory(n, 3),
    "attention_mlp_layers": lambda n: RelationalMemory(3, 3, attention_mlp_layers=n),
    "hidden_size": lambda n: RMACore(n),
    "top_k": lambda n: RMACore(4, top_k=n),
    "word_size": lambda n: KanervaCore(3, word_size=n),
    "code_size": lambda n: KanervaMemory(n, 3),
    "num_actions": TVTCore,
    "units": PlasticRNN,
    "num_layers": lambda n: LSTMStack(3, n),
    "num_cells": lambda n: EntityMemory(n, 3),
    "max_steps": lambda n: LookupMemory(3, max_steps=n),
    "recall_delay": lambda n: MetalearnedMemory(3, recall_delay=n, return_meta_loss=True),
    "filters": lambda n: MultigridConvLSTM((3, 6), n),
    "kernel_size": lambda n: MultigridConv((3, 6), 3, n),
    "rank": lambda n: ConvLSTM(3, rank=n),
    "sizes": lambda n: MultigridConv((n, 2 * n), 3),
}


@pytest.mark.parametrize("name", SIZED)
def test_integers_of_numpy_are_sizes(name):
    core, plain = SIZED[name](np.int64(3)), SIZED[name](3)
    if not isinstance(core, keras.layers.Layer):
        core, plain = tfmem.as_keras_cell(core), tfmem.as_keras_cell(plain)
    config = json.loads(json.dumps({**core.get_config(), "name": "core"}))
    assert config == json.loads(json.dumps({**plain.get_config(), "name": "core"}))
    type(core).from_config(config)


@pytest.mark.parametrize("argument", NOT_SIZES)
@pytest.mark.parametrize("value", [True, np.True_, 1.5, 3.0])
def test_booleans_and_fractions_are_no_sizes(argument, value):
    with pytest.raises(ValueError, match=argument):
        NOT_SIZES[argument](value)


def test_is_integer():
    assert all(map(is_integer, (1, np.int64(1), np.uint8(7))))
    assert not any(map(is_integer, (0, -1, True, np.True_, 1.0, "1", None, [1])))
    assert is_integer(0, least=0)
