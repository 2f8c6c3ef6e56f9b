"""Learning to execute: the public samples, batches and curricula exactly; answers by another evaluator."""

import json
import random
import re

import numpy as np
import pytest

from tests.references.learning_to_execute import evaluate
from tfmem.tasks.learning_to_execute import (
    MEMORY_TASKS,
    START,
    TASKS,
    VOCABULARY,
    Curriculum,
    LearningToExecute,
    ProgramStream,
    text,
)

PUBLIC_NAMES = dict(
    zip(TASKS, ("ADDITION", "ALGEBRA", "ALG_CTRL", "CONTROL", "ALL", "COPY", "DOUBLE", "REVERSE"), strict=True)
)
OURS = {public: ours for ours, public in PUBLIC_NAMES.items()}


def test_samples_are_the_public_ones(golden):
    files = sorted(golden("learn_to_execute").glob("samples_nest*_len*.json"))
    assert files
    for file in files:
        nesting, length = map(int, re.fullmatch(r"samples_nest(\d+)_len(\d+)", file.stem).groups())
        for public, stored in json.loads(file.read_text())["tasks"].items():
            if nesting > 1 and OURS[public] in MEMORY_TASKS:
                continue
            task, rng = LearningToExecute(OURS[public], length, nesting), random.Random(stored["python_random_seed"])
            for program, answer in stored["pairs"]:
                assert task.sample(length, nesting, rng) == (program, answer), (file.name, public)


@pytest.mark.parametrize("task", [task for task in TASKS if task not in MEMORY_TASKS])
@pytest.mark.parametrize(("length", "nesting", "beyond"), [(1, 1, 1), (4, 3, 1), (6, 2, 0)])
def test_answers_are_what_another_evaluator_says(task, length, nesting, beyond):
    data, rng = LearningToExecute(task, length, nesting, beyond), random.Random(5)
    for _ in range(200):
        program, answer = data.sample(length, nesting, rng)
        assert int(answer) == evaluate(program) % 10 ** (length + beyond)
        assert len(program) <= data.num_steps
        assert len(answer) <= data.num_steps_out


def test_the_evaluator_knows_the_papers_samples():
    assert evaluate("473278230+(1257657+32721978)") % 10**8 == 7257865
    assert evaluate("221if((411if918>314else680)+321)<778else652") == 221
    assert evaluate("x=(82930-31249)for[6]x+=98315") % 10**6 == 641571
    assert evaluate("x=(28694if89425>31990else38662)for[5]x+=54926") % 10**6 == 303324
    assert evaluate("x=(x=76957for[7]x+=62117)for[8]x+=90285") % 10**6 == 234056


def test_memory_tasks():
    for task, expected in {"copy": "{0}", "reverse": "{1}", "double": "{0}{0}"}.items():
        data = LearningToExecute(task, 6, 1)
        program, answer = data.sample(6, 1, random.Random(1))
        assert answer == expected.format(program, program[::-1])
        assert (len(program), len(answer)) == (data.num_steps, data.num_steps_out)


class PublicDraws(random.Random):
    """Python's generator for programs and numpy's for the curriculum, as the public code draws them."""

    def __init__(self, seed):
        super().__init__(seed)
        self.levels = np.random.RandomState(seed)

    def level(self, low, high):
        return int(self.levels.randint(low, high + 1))


class PublicCurriculum(Curriculum):
    def draw(self, rng):
        class Levels:
            randint = staticmethod(rng.level)

        return super().draw(Levels)


def test_batches_are_the_public_ones(golden):
    told = json.loads(golden("learn_to_execute/batches.json").read_text())
    arrays = np.load(golden("learn_to_execute/batches.npz"))
    for name, about in told.items():
        if not about["token_by_char"]:
            continue
        sizes = about["max_length"], about["max_nesting"]
        data = LearningToExecute(OURS[about["task"]], *sizes)
        curriculum = PublicCurriculum(about["mode"].removeprefix("TRAIN_").lower(), *sizes)
        rng = PublicDraws(about["seed_for_python_and_numpy"])
        data.batch(about["batch_size"], curriculum, rng)  # the public constructor throws one away
        for number in range(2):
            batch = data.batch(about["batch_size"], curriculum, rng)
            stored = {key: arrays[f"{name}/batch{number}/{key}"] for key in ("obs", "target", "target_in")}
            np.testing.assert_array_equal(batch.inputs, stored["obs"][: data.num_steps], err_msg=name)
            assert (stored["obs"][data.num_steps :] == VOCABULARY.index(".")).all()
            np.testing.assert_array_equal(batch.targets, stored["target"][: data.num_steps_out], err_msg=name)
            assert (stored["target_in"][0] == START).all()
            np.testing.assert_array_equal(batch.lengths, arrays[f"{name}/batch{number}/sizes_in"])
            np.testing.assert_array_equal(batch.mask.sum(0), arrays[f"{name}/batch{number}/sizes_out"])


def test_vocabulary_is_the_public_one(golden):
    told = json.loads(golden("learn_to_execute/vocabulary.json").read_text())["by_char"]["tokens_in_index_order"]
    assert list(VOCABULARY) == told


def test_levels_are_the_public_ones(golden):
    public = json.loads(golden("learn_to_execute/curriculum.json").read_text())
    for case in public["update"]:
        kind, sizes = case["curriculum"].split("_")[0].lower(), (case["max_length"], case["max_nesting"])
        if kind in ("naive", "combine"):
            levels = list(dict.fromkeys(case["levels"]))  # each once, in order
            ours = [Curriculum(kind, *sizes, rises=rises).level for rises in range(len(levels))]
            assert ["{1}.{0}".format(*level) for level in ours] == levels
    mix, rng = public["mix_fetch"], PublicDraws(public["mix_fetch"]["numpy_seed"])
    curriculum = PublicCurriculum("mix", mix["max_length"], mix["max_nesting"])
    assert [list(curriculum.draw(rng)) for _ in mix["length_nesting"]] == mix["length_nesting"]


def test_mix_and_test_draw_what_they_say():
    rng = random.Random(0)
    drawn = [Curriculum("mix", 3, 2).draw(rng) for _ in range(6000)]
    counts = np.array([[drawn.count((length, nesting)) for nesting in (1, 2)] for length in (1, 2, 3)])
    assert counts.sum() == 6000
    np.testing.assert_allclose(counts, 1000, atol=150)
    assert Curriculum("test", 3, 2).draw(rng) == (3, 2)
    assert {Curriculum("naive", 3, 2, rises=3).draw(rng) for _ in range(9)} == {(3, 2)}
    assert max(Curriculum("combine", 3, 2, rises=1).draw(rng) for _ in range(99)) == (2, 1)


def test_text_of_tokens_and_bad_arguments():
    data = LearningToExecute("control", 2, 2)
    batch = data.batch(5, Curriculum("test", 2, 2), random.Random(3))
    assert batch.inputs.shape == (data.num_steps, 5)
    assert batch.inputs.dtype == np.int32
    for column in range(5):
        program = text(batch.inputs[:, column], batch.lengths[column])
        assert int(text(batch.targets[:, column], int(batch.mask[:, column].sum()))) == evaluate(program) % 1000
    for arguments in (("divide", 5, 2), ("addition", 0, 2), ("copy", 5, 2), ("addition", 5, 0), ("addition", 5, 2, 3)):
        with pytest.raises(ValueError, match="must be"):
            LearningToExecute(*arguments)
    with pytest.raises(ValueError, match="kind"):
        Curriculum("mixed", 5, 2)


def test_a_stream_follows_from_seed_and_number():
    data = {"program": "addition", "max_length": 3, "max_nesting": 2}
    streams = [ProgramStream(data, 4, seed=1) for _ in range(2)]
    other = streams[1].batch(0)
    for number in (3, 0):
        again, batch = (stream.batch(number) for stream in streams)
        assert all(np.array_equal(batch[name], again[name]) for name in batch)
    assert any(not np.array_equal(other[name], ProgramStream(data, 4, seed=2).batch(0)[name]) for name in other)


def test_a_stream_rises_with_its_curriculum():
    stream = ProgramStream(LearningToExecute("copy", 4, 1), 8, 0, "naive", updates_per_level=2)
    assert [set(stream.batch(number)["lengths"]) for number in (0, 1, 2, 5, 9)] == [{1}, {1}, {2}, {3}, {4}]


@pytest.mark.parametrize(
    ("argument", "value"), [("batch_size", 0), ("seed", -1), ("updates_per_level", 0), ("curriculum", "best")]
)
def test_arguments_of_a_stream(argument, value):
    arguments = {"data": LearningToExecute("copy", 4, 1), "batch_size": 2, "seed": 0, argument: value}
    with pytest.raises(ValueError, match=f"{argument if argument != 'curriculum' else 'kind'}: "):
        ProgramStream(**arguments)
