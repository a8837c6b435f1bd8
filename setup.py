"""Packaging of vfd_tf: `pip install .`, or `pip install -e .[dev]` to work on it."""

import pathlib
import re

from setuptools import find_packages, setup

HERE = pathlib.Path(__file__).parent
VERSION = re.search(
    r'__version__ = "(.+)"', (HERE / "vfd_tf/versions.py").read_text()
).group(1)

setup(
    name="vfd_tf",
    version=VERSION,
    description="Adversarial training with Vanilla Feature Distillation for Keras",
    long_description=(HERE / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="MIT",
    packages=[*find_packages(include=["vfd_tf", "vfd_tf.*"]), "vfd_tf.recipes"],
    # The flagfiles stand beside run.py, and inside the package where it is installed.
    package_dir={"vfd_tf.recipes": "flags"},
    package_data={
        "vfd_tf.recipes": ["*.flags"],
        "vfd_tf.experiments": ["templates/*.md"],
        "vfd_tf.suites": ["definitions/*.toml"],
        "vfd_tf.suites.report": ["*.csv", "templates/*"],
    },
    python_requires=">=3.11,<3.14",
    install_requires=[
        "tensorflow>=2.20",
        "keras>=3.12",
        "numpy",
        "scipy",
        "absl-py",
        "tensorflow-datasets",
        "importlib_resources",  # tensorflow-datasets 4.9 imports it without declaring it
        "cleverhans",
        "h5py",
        "jinja2",  # reports and model cards
        "markupsafe",  # jinja2 brings it
        "psutil",
        "tensorboard",
        "matplotlib",
        "pillow",  # reads images beside PNG and JPEG; matplotlib brings it in any case
        "rich",  # the overview of a suite; keras brings it in any case
        "scikit-learn",
        "threadpoolctl",  # t-SNE in one thread; scikit-learn brings it in any case
    ],
    extras_require={
        "dev": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "parsl",
            "playwright",
            "ruff",
            "setuptools",
            "wheel",
        ],
        "parsl": ["parsl"],
        "docs": ["pdoc"],
        "bench": ["foolbox", "adversarial-robustness-toolbox"],
        "bench-torch": ["torch", "torchattacks"],
    },
    entry_points={"console_scripts": ["vfd = vfd_tf.cli.main:main"]},
)
