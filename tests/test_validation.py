"""Sizes that no array can have are refused at once, by the names of the arguments."""

import dataclasses

import numpy as np
import pytest

from reproductions import load_experiment
from tfmem.data.babi import parse
from tfmem.tasks import babi
from tfmem.tasks.associative_recall import AssociativeRecall
from tfmem.tasks.dictionary_inference import DictionaryInference
from tfmem.tasks.double_copy import DoubleCopy
from tfmem.tasks.language_modeling import EvaluationWindows
from tfmem.tasks.learning_to_execute import ProgramStream
from tfmem.tasks.mapping import MappingStream, MappingTask
from tfmem.tasks.nth_farthest import NthFarthest
from tfmem.tasks.priority_sort import PrioritySort
from tfmem.tasks.repeat_copy import RepeatCopy
from tfmem.validation import LARGEST, check_array


def test_the_largest_array():
    check_array(LARGEST, 1, size=LARGEST)
    with pytest.raises(ValueError, match=f"^rows: 2, columns: {2**30}, must make arrays of at most {LARGEST} numbers;"):
        check_array(2, np.int32(2**30), rows=2, columns=2**30)


def test_a_supervised_configuration_says_how_large_its_batch_would_be():
    config = load_experiment("metalearned/double_copy").PRESETS["smoke"]
    with pytest.raises(ValueError, match=r"^num_steps: 300001, batch_size: 1000000, .* would have 3600012000000$"):
        dataclasses.replace(config, task=DoubleCopy(length=100_000), batch_size=1_000_000)
    assert dataclasses.replace(config, task=DoubleCopy(length=1_000), batch_size=50_000).task.num_steps == 3_001


HUGE = [
    (AssociativeRecall, dict(num_items=10**6)),
    (AssociativeRecall, dict(num_bits=2**31 - 1)),
    (DictionaryInference, dict(support_size=10**5, length=10**5)),
    (DoubleCopy, dict(length=10**9)),
    (DoubleCopy, dict(num_characters=2**31)),
    (NthFarthest, dict(num_objects=10**5)),
    (NthFarthest, dict(num_features=10**9)),
    (PrioritySort, dict(num_inputs=10**9)),
    (PrioritySort, dict(num_bits=10**9)),
    (RepeatCopy, dict(batch_size=10**9)),
    (RepeatCopy, dict(max_length=10**6, max_repeats=10**6)),
    (ProgramStream, dict(data=dict(program="copy", max_length=100, max_nesting=1), batch_size=10**9, seed=0)),
    (MappingStream, dict(task=MappingTask(map_size=15, target_size=45), batch_size=10**8)),
    (MappingStream, dict(task=MappingTask(map_size=15, target_size=45), batch_size=1, length=10**7)),
    (EvaluationWindows, dict(ids=np.arange(9), batch_size=10**5, window=10**5)),
    (babi.Batches, dict(sequences=babi.encode(parse("1 A?\tb\t1\n", 1), ("-", "a", "b", "?")), batch_size=10**10)),
]


@pytest.mark.parametrize(("task", "arguments"), HUGE)
def test_huge_sizes_are_refused(task, arguments):
    with pytest.raises(ValueError, match=rf"^\w+: .*, must make arrays of at most {LARGEST} numbers; "):
        task(**arguments)
