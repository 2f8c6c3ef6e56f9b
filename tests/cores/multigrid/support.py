"""Common part of the tests of the multigrid cores."""


def randomized(layer, rng):
    for variable in layer.weights:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return layer
