"""What has to be settled before TensorFlow and Keras are imported; imports neither."""

import os
import pathlib
import sys
import tempfile


def has_avx512() -> bool:
    """Whether this Linux CPU has AVX-512, where TensorFlow turns oneDNN on by itself."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    return cpuinfo.exists() and "avx512f" in cpuinfo.read_text()


def has_cpu_units(dtype: str) -> bool:
    """Whether this Linux CPU multiplies in bfloat16 or float16 (AVX-512 or AMX)."""
    cpuinfo = pathlib.Path("/proc/cpuinfo")
    short = {"bfloat16": "bf16", "float16": "fp16"}[dtype]
    words = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return not words.isdisjoint((f"avx512_{short}", f"amx_{short}"))


def is_command() -> bool:
    """Whether this process is the command line: `vfd`, `python -m vfd_tf`, or run.py."""
    script = pathlib.Path(sys.argv[0] if sys.argv else "")
    if script.stem == "vfd" or script == pathlib.Path(__file__).with_name("__main__.py"):
        return True
    words = sys.orig_argv
    if "-m" in words and words[words.index("-m") + 1 :][:1] == ["vfd_tf"]:
        return True
    beside = pathlib.Path(__file__).resolve().parents[1] / "run.py"
    return script.name == "run.py" and script.resolve() == beside


def check_backend() -> None:
    """Refuses another Keras backend than TensorFlow, in one sentence.

    Raises:
        ImportError: Keras runs on another backend, or is told to by KERAS_BACKEND. The
            command line exits with code 2 instead.
    """
    named = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    refusal = None
    if named != "tensorflow":
        refusal = (
            f"vfd_tf trains on TensorFlow and KERAS_BACKEND is {named!r}: unset it, or set "
            "KERAS_BACKEND=tensorflow."
        )
    elif "keras" in sys.modules:
        running = getattr(sys.modules["keras"], "config", None)
        running = running.backend() if running else "tensorflow"
        if running != "tensorflow":
            refusal = (
                f"Keras was imported before vfd_tf and runs on {running!r}: set "
                "KERAS_BACKEND=tensorflow or import vfd_tf first."
            )
    if refusal and is_command():
        print(f"error: {refusal}", file=sys.stderr)
        raise SystemExit(2)
    if refusal:
        raise ImportError(refusal)


def import_tensorflow() -> None:
    """At the command line, imports TensorFlow without the lines that it writes to stderr.

    They come from C++ before logging is configured, past TF_CPP_MIN_LOG_LEVEL. They are
    shown where the import fails, and where that level is set to 0 or 1.
    """
    if not is_command() or "tensorflow" in sys.modules:
        return
    if os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3") < "2":
        return
    try:
        stderr = os.dup(2)
    except OSError:  # closed
        return
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow  # noqa: F401
        except BaseException:
            said.seek(0)
            os.write(stderr, said.read())
            raise
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
