"""Packaging of tfmem. Ranges live here, the exact set that is tested in requirements.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+)"', (HERE / "tfmem" / "__init__.py").read_text("utf-8")).group(1)

setup(
    name="tfmem",
    version=VERSION,
    description="Neural memory for TensorFlow 2: Keras 3 layers and Sonnet 2 modules, with their papers' experiments",
    long_description=(HERE / "README.md").read_text("utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    # In a clone the folder is `reproductions`; in site-packages, where others may have one, `tfmem_reproductions`.
    package_dir={"tfmem_reproductions": "reproductions"},
    packages=[
        *find_packages(include=["tfmem", "tfmem.*"]),
        *(f"tfmem_{name}" for name in find_packages(include=["reproductions", "reproductions.*"])),
    ],
    package_data={"tfmem": ["py.typed", "data/builders/checksums.tsv", "weights/**/*"]},
    install_requires=[
        "tensorflow>=2.21,<2.22",
        "keras>=3.12,<4",
        "tf-keras>=2.21,<2.22",  # TFP imports it
        "tensorflow-probability>=0.25,<0.26",
        "dm-sonnet>=2.0.2,<3",
        "tensorflow-datasets>=4.9.9,<5",
        "tensorboard>=2.21",  # TF 2.21 no longer brings it
        "opencv-python-headless>=4.10",
        "numpy>=1.26",
        "h5py>=3.14,<4",  # episode files
        "dm-tree>=0.1.8",
        "ml_dtypes>=0.5",
        "matplotlib>=3.8",
        "pillow>=10",
        "gymnasium>=1.1",  # AutoresetMode
        "trimesh>=5",  # meshes of the worlds of tfmem.envs
        "embreex>=4.4",  # and the rays that see them
        "rich>=13",
        "tyro>=0.9",
        "setuptools>=70",  # distutils for TFP on Python 3.12 and later
    ],
    extras_require={
        "gpu": ["tensorflow[and-cuda]>=2.21,<2.22"],
        "distributed": ["ray>=2.40"],  # agents' actors in processes and on clusters
        "aot": ["jax>=0.10"],  # runs bundles; on the machine that trains, jax[cuda13] or the like
        "dev": [
            "pytest>=8",
            "pytest-xdist>=3.6",
            "hypothesis>=6.100",
            "ruff>=0.9",
            "nbmake>=1.5.5",
            "ipykernel>=6",
            "jax>=0.10",
            "popgym>=1.0.7",  # the agents' environments of reproductions/gymnasium.py
            "dill>=0.3",  # TFDS's DatasetBuilderTestCase
            "importlib_resources>=6",  # the same
            "build>=1.2",
            "twine>=6",  # renders what a package index shows
        ],
    },
    entry_points={"console_scripts": ["reproduce=tfmem_reproductions.__main__:main"]},
)
