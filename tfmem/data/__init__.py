"""Data sets as they are published: formats, the front door to them, images and episodes as batches.

An import goes from right to left alone: files < idx, babi, corpora (formats) < builders (for TFDS) < datasets.
"""
