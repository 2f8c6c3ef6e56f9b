"""What the tests of the multigrid cores share."""


def randomized(layer, rng):
    for variable in layer.weights:
        variable.assign(rng.normal(0, 0.4, variable.shape))
    return layer
