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

LARGEST = 2**24  # bytes of a request


class Sessions:
    """States of users by name, each a dict of tensors [1, ...]; requests wait until `run_batch` takes them."""

    def __init__(self, folder, max_batch=64):
        self.model, self.max_batch = tf.saved_model.load(folder), max_batch
        if missing := {"step", "initial_state"} - set(self.model.signatures):
            raise ValueError(f"folder: {folder!r}, must be a SavedModel with the signatures {sorted(missing)}")
        self.step = self.model.signatures["step"]
        self.specs = self.step.structured_input_signature[1]
        self.first = self.model.signatures["initial_state"](batch_size=tf.constant(1))
        self.states, self.waiting, self.lock = {}, [], threading.Lock()

    def submit(self, user, inputs=None):
        """Queue a step, or without inputs a reset; returns the `Future` of its outputs."""
        if inputs is not None:
            if set(inputs) != (names := set(self.specs) - set(self.first)):
                raise ValueError(f"inputs: {sorted(inputs)}, must be {sorted(names)}")
            inputs = {name: tf.constant([x], self.specs[name].dtype) for name, x in inputs.items()}
            for name, x in inputs.items():
                if not x.shape.is_compatible_with(shape := self.specs[name].shape):
                    raise ValueError(f"{name}: shape {x.shape[1:]}, must be {shape[1:]}")
                if x.dtype.is_floating and not np.isfinite(x).all():  # the user's state would be lost
                    raise ValueError(f"{name}: {x[0].numpy().tolist()}, must be finite")
        self.waiting.append((user, inputs, future := Future()))
        return future

    def run_batch(self):
        """Run the first waiting request of each user; returns how many steps there were."""
        with self.lock:
            taken = self.waiting[: self.max_batch]
            first = {request[0]: request for request in reversed(taken)}
            self.waiting[: len(taken)] = [request for request in taken if request is not first[request[0]]]
            for user, _, future in (request for request in first.values() if request[1] is None):
                self.states.pop(user, None)
                future.set_result({})
            steps = [request for request in first.values() if request[1] is not None]
            if steps:
                self._run_steps(steps)
            return len(steps)

    def _run_steps(self, steps):
        """Run one step of each user as a batch; if it fails, each alone, so that an error is that of its user."""
        rows = [{**inputs, **self.states.get(user, self.first)} for user, inputs, _ in steps]
        try:
            results = self.step(**{name: tf.concat([row[name] for row in rows], 0) for name in self.specs})
        except Exception as error:
            if len(steps) == 1:
                return steps[0][2].set_exception(error)
            for step in steps:
                self._run_steps([step])
            return
        for i, (user, _, future) in enumerate(steps):
            mine = {name: x[i : i + 1] for name, x in results.items()}
            self.states[user] = {name: mine.pop(name) for name in self.first}
            future.set_result({name: x[0].numpy().tolist() for name, x in mine.items()})


def http_server(sessions, port):
    """Make an HTTP server of `sessions`; POST /step with "user" and "inputs", POST /reset with "user"."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            try:
                size = self.headers["Content-Length"] or ""
                if not size.isdecimal() or int(size) > LARGEST:
                    raise ValueError(f"Content-Length: {size!r}, must be a number of bytes, at most {LARGEST}")
                if self.path not in ("/step", "/reset"):
                    raise ValueError(f"path: {self.path!r}, must be /step or /reset")
                asked = json.loads(self.rfile.read(int(size)))
                inputs = dict(asked["inputs"]) if self.path == "/step" else None
                future = sessions.submit(str(asked["user"]), inputs)
                while not future.done():  # waits for a batch that runs, then runs those that wait
                    sessions.run_batch()
                status, answer = 200, {"outputs": future.result()}
            except (KeyError, TypeError, ValueError, RecursionError, tf.errors.InvalidArgumentError) as error:
                status, answer = 400, {"error": f"{type(error).__name__}: {error}"}
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

    return http.server.ThreadingHTTPServer(("localhost", port), Handler)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=8501)
    given = parser.parse_args()
    http_server(Sessions(given.folder), given.port).serve_forever()
