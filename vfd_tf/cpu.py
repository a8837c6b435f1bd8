"""What decides TensorFlow's default of oneDNN; imports nothing of TensorFlow."""

import pathlib


def has_avx512() -> bool:
    """Whether this Linux CPU has AVX-512, where TensorFlow turns oneDNN on by itself."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512f" in cpuinfo.read_text()
