"""Server of an exported model that keeps its users' states. It needs TensorFlow and the SavedModel, nothing else.

    python examples/stateful_server.py EXPORTED --port 8501
    curl localhost:8501/step -d '{"user": "ann", "inputs": {"inputs": [0.1, 0.2, 0.3]}}'
    curl localhost:8501/reset -d '{"user": "ann"}'

Steps that wait at the same time run as one batch, at most one of each user. A user's own steps run in their order.
"""

import argparse
import http.server
import json
import threading
from concurrent.futures import Future

import numpy as np
import tensorflow as tf


class Sessions:
    """States of users by name, each a dict of arrays [1, ...]; requests wait until `run_batch` takes them."""

    def __init__(self, folder, max_batch=64):
        self.model, self.max_batch = tf.saved_model.load(folder), max_batch
        self.signature = self.model.signatures["step"]
        self.first = numpy(self.model.signatures["initial_state"](batch_size=tf.constant(1)))
        specs = self.signature.structured_input_signature[1]
        self.inputs = {name: spec for name, spec in specs.items() if name not in self.first}
        self.states, self.waiting, self.changed = {}, [], threading.Condition()

    def submit(self, user, inputs=None):
        """Queue a step, or without inputs a reset; returns the `Future` of its outputs."""
        if inputs is not None:
            if set(inputs) != set(self.inputs):
                raise ValueError(f"inputs: {sorted(inputs)}, must be {sorted(self.inputs)}")
            inputs = {n: np.asarray(x, self.inputs[n].dtype.as_numpy_dtype)[None] for n, x in inputs.items()}
            for name, x in inputs.items():
                if not self.inputs[name].shape.is_compatible_with(x.shape):
                    raise ValueError(f"{name}: shape {x.shape[1:]}, must be {self.inputs[name].shape[1:]}")
        with self.changed:
            self.waiting.append((user, inputs, future := Future()))
            self.changed.notify()
        return future

    def run_batch(self):
        """Run the first waiting request of each user; returns how many steps there were."""
        with self.changed:
            self.changed.wait_for(lambda: self.waiting)
            first = {}
            for request in self.waiting:
                if len(first) < self.max_batch:
                    first.setdefault(request[0], request)
            chosen = [id(request) for request in first.values()]
            self.waiting = [request for request in self.waiting if id(request) not in chosen]
        steps = [request for request in first.values() if request[1] is not None]
        try:
            rows = [{**inputs, **self.states.get(user, self.first)} for user, inputs, _ in steps]
            if rows:
                batch = {name: tf.constant(np.concatenate([row[name] for row in rows])) for name in rows[0]}
                results = numpy(self.signature(**batch))
            for user, inputs, future in first.values():
                if inputs is None:
                    self.states.pop(user, None)
                    future.set_result({})
            for i, (user, _, future) in enumerate(steps):
                mine = {name: array[i : i + 1] for name, array in results.items()}
                self.states[user] = {name: mine.pop(name) for name in self.first}
                future.set_result({name: array[0].tolist() for name, array in mine.items()})
        except Exception as error:
            for _, _, future in first.values():
                if not future.done():
                    future.set_exception(error)
        return len(steps)

    def run_forever(self):
        while True:
            self.run_batch()


def numpy(tensors):
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def http_server(sessions, port):
    """Make an HTTP server of `sessions`; POST /step with "user" and "inputs", POST /reset with "user"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                inputs = {"/step": lambda: asked["inputs"], "/reset": lambda: None}[self.path]()
                status, answer = 200, {"outputs": sessions.submit(asked["user"], inputs).result()}
            except (KeyError, TypeError, ValueError, tf.errors.InvalidArgumentError) as error:
                status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments):
            pass

    threading.Thread(target=sessions.run_forever, daemon=True).start()
    return http.server.ThreadingHTTPServer(("localhost", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8501)
    given = parser.parse_args()
    http_server(Sessions(given.folder), given.port).serve_forever()
