"""Portable compiled training steps: StableHLO bundles, and a runner that needs only numpy and jax.

`tfmem.aot.lowering` makes bundles (with TensorFlow), `python -m tfmem.aot` runs them (without). Guide: docs/aot.md.
"""
