"""The worker that runs commands, and what is said of one that ended."""

import subprocess
import sys

from vfd_tf.suites import command as commands_of
from vfd_tf.suites import worker


def test_the_worker_imports_nothing_but_the_standard_library():
    code = f"import runpy, sys; runpy.run_path({worker.__file__!r})\n"
    code += (
        "print([n for n in ('vfd_tf', 'keras', 'tensorflow', 'numpy') if n in sys.modules])"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.stdout == "[]\n", said.stderr


def test_last_words_of_a_long_log(tmp_path):
    log = tmp_path / "log.txt"
    log.write_bytes(b"error: old\n" + b"x" * (1 << 20) + b"\nend \xff\r\n\n")
    assert commands_of.last_words(str(log)) == "end \ufffd"


def test_what_a_process_died_of():
    assert commands_of.death(-11) == "its process was killed (signal 11, SIGSEGV)"
    assert commands_of.death(-63) == "its process was killed (signal 63)"
