"""Files from strangers: their payload, a finished run to spoil, and what they may do.

Every attack is a real file. Its payload would set CANARY in the environment, or write
outside of the folder: neither may happen, and the user gets one sentence.
"""

import os
import pathlib
import shutil
import tracemalloc
import zipfile

import pytest
import tiny  # vfd_tf before TensorFlow

from vfd_tf.cli import main

CANARY = "VFD_TF_CANARY"


def sing(*_, **__):
    """What no file may have done."""
    os.environ[CANARY] = "dead"


class Payload:
    def __reduce__(self):
        return sing, ()


@pytest.fixture(autouse=True)
def alive(tmp_path, monkeypatch):
    """Nothing ran, and nothing but `here` was written to."""
    here = tmp_path / "here"
    here.mkdir()
    (tmp_path / "secret.txt").write_text("not yours")
    monkeypatch.chdir(here)
    monkeypatch.delenv(CANARY, raising=False)
    yield
    assert CANARY not in os.environ
    assert sorted(os.listdir(tmp_path)) == ["here", "secret.txt"]
    assert (tmp_path / "secret.txt").read_text() == "not yours"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder with data.npz, net.keras, the finished run "run" and "net.eval"."""
    folder = tiny.written(tmp_path_factory.mktemp("tiny"))
    assert tiny.train(folder) == 0
    assert tiny.evaluate(folder, folder / "net.keras") == 0
    return folder


@pytest.fixture
def copy(finished):
    """The same folder, to be spoilt; its data set stays where it is."""
    here = pathlib.Path.cwd()
    shutil.copytree(finished, here, dirs_exist_ok=True)
    return here


def again(copy, finished):
    """The commands of `finished`, on its copy."""
    words = [word for word in tiny.flags(finished) if not word.startswith("--runs")]
    return main.main(["run.py", *words, f"--runs={copy}", f"--workdir={copy / 'run'}"])


def refusal(capsys, *parts):
    """The one line on stderr, which names these."""
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in error, error
    assert not list(pathlib.Path.cwd().rglob("vfd-error-*")), error
    for part in parts:
        assert str(part) in lines[0], lines[0]
    return lines[0]


def rewritten(path, change):
    """A zip file with other members: `change` maps {name: bytes} to the new ones."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return str(path)


LITTLE = 200 * 2**20


@pytest.fixture
def bounded():
    """No more memory than a little is taken, as Python and NumPy count it."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LITTLE, f"{peak:,} bytes"


def zeros(path, name, size, head=b""):
    """A member of so many zeros, a thousandth of it in the file."""
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        file.write(head)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))
