"""Compiled training steps that travel: StableHLO bundles, and a runner that needs numpy and jax only.

`tfmem.aot.lowering` makes bundles (with TensorFlow), `python -m tfmem.aot` runs them (without); docs/aot.md tells how.
"""
