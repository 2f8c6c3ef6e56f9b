"""The stateful server: interleaved users, their steps in batches, get what each would get alone."""

import http.client
import importlib.util
import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfmem
from tfmem.cores import RelationalMemory

SERVER = Path(__file__).parents[2] / "examples/stateful_server.py"
USERS, STEPS = ("ann", "bob", "cleo"), 4


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Folder of a core's SavedModel, version 1 of it as TensorFlow Serving wants it."""
    keras.utils.set_random_seed(0)
    folder = tmp_path_factory.mktemp("model") / "1"
    tfmem.export.saved_model(RelationalMemory(2, 4, 2), folder, input_shape=(3,))
    return folder


@pytest.fixture(scope="module")
def alone(exported):
    """Inputs of each user [T, 3] and the outputs [T, features] of the sequence alone."""
    sequence = tf.saved_model.load(str(exported)).signatures["sequence"]
    inputs = {user: np.random.default_rng(i).normal(size=[STEPS, 3]).astype("f") for i, user in enumerate(USERS)}
    return {user: (x, sequence(inputs=tf.constant(x[None]))["outputs"][0].numpy()) for user, x in inputs.items()}


@pytest.fixture
def server():
    spec = importlib.util.spec_from_file_location("stateful_server", SERVER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def sessions(server, exported):
    return server.Sessions(str(exported))


def equal(future, expected):
    np.testing.assert_allclose(future.result(timeout=0)["outputs"], expected, rtol=1e-5, atol=1e-6)


def test_interleaved_users_share_batches_and_keep_their_own_states(sessions, alone):
    order = ["ann", "ann", "bob", "cleo", "bob", "ann", "bob", "cleo", "ann", "cleo", "cleo", "bob"]
    places = [order[:i].count(user) for i, user in enumerate(order)]
    futures = [sessions.submit(u, {"inputs": alone[u][0][t].tolist()}) for u, t in zip(order, places, strict=True)]
    assert [sessions.run_batch() for _ in range(STEPS)] == [3, 3, 3, 3]
    for user, t, future in zip(order, places, futures, strict=True):
        equal(future, alone[user][1][t])
    assert sessions.waiting == []


def test_users_may_be_ahead_of_each_other_and_a_reset_is_in_order(sessions, alone):
    x, outputs = alone["ann"]
    first = [sessions.submit("ann", {"inputs": x[t]}) for t in (0, 1)]
    done = sessions.submit("ann")
    again = sessions.submit("ann", {"inputs": x[0]})
    late = sessions.submit("bob", {"inputs": alone["bob"][0][0]})
    assert [sessions.run_batch() for _ in range(4)] == [2, 1, 0, 1]
    equal(first[1], outputs[1])
    assert done.result(timeout=0) == {}
    equal(again, outputs[0])
    equal(late, alone["bob"][1][0])


def test_a_batch_has_at_most_max_batch_users(server, exported, alone):
    sessions = server.Sessions(str(exported), max_batch=2)
    futures = {user: sessions.submit(user, {"inputs": alone[user][0][0]}) for user in USERS}
    assert [sessions.run_batch(), sessions.run_batch()] == [2, 1]
    for user, future in futures.items():
        equal(future, alone[user][1][0])


def test_wrong_inputs_are_refused_and_change_no_state(sessions, alone):
    with pytest.raises(ValueError, match=r"inputs: shape \(2,\), must be \(3,\)"):
        sessions.submit("ann", {"inputs": [1.0, 2.0]})
    with pytest.raises(ValueError, match=r"inputs: \['x'\], must be \['inputs'\]"):
        sessions.submit("ann", {"x": [1.0]})
    for value in ("nan", "inf"):
        with pytest.raises(ValueError, match=rf"inputs: \[{value}, 0.0, 0.0\], must be finite"):
            sessions.submit("ann", {"inputs": [float(value), 0.0, 0.0]})
    assert sessions.waiting == []
    assert sessions.states == {}


def test_a_batch_that_fails_is_an_error_of_its_steps_alone(sessions, alone, monkeypatch):
    def fail(**_):
        raise ValueError("no memory")

    inputs, outputs = alone["ann"]
    before = sessions.submit("ann", {"inputs": inputs[0]})
    sessions.run_batch()
    with monkeypatch.context() as patched:
        patched.setattr(sessions, "step", fail)
        failed, reset = sessions.submit("ann", {"inputs": inputs[1]}), sessions.submit("bob")
        sessions.run_batch()
    assert str(failed.exception(timeout=0)) == "no memory"
    assert reset.result(timeout=0) == {}
    again = sessions.submit("ann", {"inputs": inputs[1]})
    sessions.run_batch()
    equal(before, outputs[0])
    equal(again, outputs[1])


def test_an_error_of_one_users_step_is_not_that_of_others(sessions, alone, monkeypatch):
    step = sessions.step

    def fail_at_nine(inputs, **state):
        if (inputs.numpy() == 9).any():
            raise ValueError("nine")
        return step(inputs=inputs, **state)

    monkeypatch.setattr(sessions, "step", fail_at_nine)
    good = [sessions.submit(user, {"inputs": alone[user][0][0]}) for user in ("ann", "bob")]
    failed = sessions.submit("cleo", {"inputs": [9.0, 0.0, 0.0]})
    sessions.run_batch()
    equal(good[0], alone["ann"][1][0])
    equal(good[1], alone["bob"][1][0])
    assert str(failed.exception(timeout=0)) == "nine"


def test_a_model_without_the_signatures(server, tmp_path):
    tf.saved_model.save(tf.Module(), tmp_path)
    with pytest.raises(ValueError, match=r"folder: '.*', must be a SavedModel with the signatures \['initial_state'"):
        server.Sessions(str(tmp_path))


def test_saved_model_cli_shows_what_serving_needs(exported):
    cli = Path(sys.executable).parent / "saved_model_cli"
    arguments = ["show", "--dir", exported, "--tag_set", "serve", "--signature_def", "serving_default"]
    shown = subprocess.run([cli, *arguments], capture_output=True, text=True, check=True, timeout=300).stdout
    given, _, result = " ".join(shown.split()).partition(
        "The given SavedModel SignatureDef contains the following output(s)"
    )
    for part in (given, result):
        assert "['state_memory'] tensor_info: dtype: DT_FLOAT shape: (-1, 2, 8)" in part
    assert "['inputs'] tensor_info: dtype: DT_FLOAT shape: (-1, 3)" in given
    assert "['outputs'] tensor_info: dtype: DT_FLOAT shape: (-1, 16)" in result
    assert "Method name is: tensorflow/serving/predict" in result


def test_threads_of_users_over_http(server, sessions, alone):
    served = server.http_server(sessions, 0)
    threading.Thread(target=served.serve_forever, daemon=True).start()

    def post(path, **content):
        url = f"http://localhost:{served.server_address[1]}/{path}"
        with urllib.request.urlopen(url, json.dumps(content).encode(), timeout=60) as answer:
            return json.loads(answer.read())["outputs"]

    def user_steps(user):
        return [post("step", user=user, inputs={"inputs": row.tolist()})["outputs"] for row in alone[user][0]]

    try:
        with ThreadPoolExecutor(len(USERS)) as pool:
            for user, outputs in zip(USERS, pool.map(user_steps, USERS), strict=True):
                np.testing.assert_allclose(outputs, alone[user][1], rtol=1e-5, atol=1e-6)
        assert post("reset", user="ann") == {}
        first = post("step", user="ann", inputs={"inputs": alone["ann"][0][0].tolist()})["outputs"]
        np.testing.assert_allclose(first, alone["ann"][1][0], rtol=1e-5, atol=1e-6)
        with pytest.raises(urllib.error.HTTPError) as refused:
            post("step", user="ann", inputs={"inputs": [1.0]})
        assert refused.value.code == 400
        assert "must be (3,)" in json.loads(refused.value.read())["error"]
        assert post("reset", user={"no": "name"}) == {}
        for size, body in ((None, b""), ("-1", b"{}"), ("x", b"{}"), (str(2**24 + 1), b"{}"), ("99999", b"[" * 99999)):
            connection = http.client.HTTPConnection("localhost", served.server_address[1], timeout=60)
            connection.putrequest("POST", "/step")
            if size is not None:
                connection.putheader("Content-Length", size)
            connection.endheaders(body)
            answer = connection.getresponse()
            assert answer.status == 400
            assert answer.headers["Content-Type"] == "application/json"
            said = "RecursionError: " if size == "99999" else "ValueError: Content-Length: "
            assert json.loads(answer.read())["error"].startswith(said)
        wrong = [("nothing", {"user": "ann"}), ("step", {"user": "ann"}), ("reset", {})]
        for path, content in [*wrong, ("step", {"user": "ann", "inputs": None})]:
            with pytest.raises(urllib.error.HTTPError) as refused:
                post(path, **content)
            assert refused.value.code == 400
        second = post("step", user="ann", inputs={"inputs": alone["ann"][0][1].tolist()})["outputs"]
        np.testing.assert_allclose(second, alone["ann"][1][1], rtol=1e-5, atol=1e-6)
    finally:
        served.shutdown()
        served.server_close()
