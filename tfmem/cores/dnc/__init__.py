"""Differentiable neural computer (Graves et al. 2016): addressing, access, core."""
