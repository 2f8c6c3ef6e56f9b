"""Builders for tensorflow-datasets: importing a module of this folder registers its data sets with `tfds.builder`."""
