"""The version of this package, and those of what it runs on."""

__version__ = "0.1.0"


def versions() -> dict[str, str]:
    """Name -> version of this package, TensorFlow, Keras and NumPy."""
    import keras
    import numpy as np
    import tensorflow as tf

    modules = {"tensorflow": tf, "keras": keras, "numpy": np}
    others = {name: module.__version__ for name, module in modules.items()}
    return {"vfd_tf": __version__, **others}
