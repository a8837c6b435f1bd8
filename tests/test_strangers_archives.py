"""Archives from strangers: no pickles, no names that lead out, nothing without bound."""

import io
import os
import pathlib
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import strangers
import tiny  # vfd_tf before TensorFlow
from strangers import CANARY, Payload, again, refusal, rewritten, zeros

from vfd_tf import InputError, files
from vfd_tf.cli import main
from vfd_tf.data import image_archives
from vfd_tf.models import network

alive, bounded = strangers.alive, strangers.bounded
finished, copy = strangers.finished, strangers.copy


# --- pickles ----------------------------------------------------------------------------


def pickled(path):
    """An .npz whose every array is a pickle that would sing."""
    with np.load(path) as saved:
        names = saved.files
    objects = np.array([Payload()], dtype=object)
    np.savez(path, **dict.fromkeys(names, objects))


def test_the_pickles_of_these_tests_would_sing():
    np.savez("a.npz", x=np.array([Payload()], dtype=object))
    with np.load("a.npz", allow_pickle=True) as saved:
        assert saved["x"] is not None and os.environ.pop(CANARY) == "dead"


@pytest.mark.parametrize("name", [tiny.CHECKPOINT, "verdicts.npz"])
def test_a_pickle_in_a_run_directory_is_refused(copy, finished, capsys, name):
    pickled(copy / "run" / name)
    (copy / "run" / "results.json").unlink()
    assert again(copy, finished) == 2
    refusal(capsys, copy / "run" / name, "Python objects")


def test_a_pickle_in_a_report_is_refused(copy, capsys):
    pickled(copy / "net.eval" / "verdicts.npz")
    assert tiny.evaluate(copy, copy / "net.keras") == 2
    refusal(capsys, copy / "net.eval" / "verdicts.npz", "Python objects")


def test_a_pickle_in_a_journal_is_evaluated_anew(finished, capsys):
    folder = pathlib.Path("results")
    words = finished / "net.keras", f"--eval_dir={folder}"
    assert tiny.evaluate(finished, *words) == 0
    (path,) = folder.glob("journal/*.npz")
    pickled(path)
    capsys.readouterr()
    assert tiny.evaluate(finished, *words) == 0
    assert f"{path} is damaged; fgsm begins anew" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["x_train", "y_test", "class_names"])
def test_a_pickle_in_a_data_set_is_refused(name):
    objects = np.array([Payload()], dtype=object)
    np.savez("a.npz", **tiny.arrays() | {name: objects})
    with pytest.raises(InputError, match=f"{name} of a.npz can't be read .* objects"):
        image_archives.read_npz("a.npz")


def test_a_bare_pickle_is_no_archive(capsys):
    pathlib.Path("a.npz").write_bytes(pickle.dumps(Payload()))
    assert main.main(["run.py", "--dataset=npz:a.npz"]) == 2
    refusal(capsys, "a.npz is not an .npz archive")
    with pytest.raises(InputError, match="a.npz can't be read"):
        files.read_arrays("a.npz", "remove it")


# --- names ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../canary", "/tmp/canary", "../../canary"])
def test_names_of_arrays_lead_nowhere(copy, finished, capsys, name):
    path = copy / "run" / tiny.CHECKPOINT
    with np.load(path) as saved:
        arrays = {**saved, name: np.zeros(3)}
    np.savez(path, **arrays)
    (copy / "run" / "results.json").unlink()
    assert again(copy, finished) == 2
    refusal(capsys, path, "is no array")


def test_keys_with_slashes_are_keys(copy):
    np.savez("a.npz", **{"after/0": np.ones(2), "a|npz:../../x.npz|fgsm": np.ones(3)})
    found = files.read_arrays("a.npz", "remove it")
    assert set(found) == {"after/0", "a|npz:../../x.npz|fgsm"}


@pytest.mark.parametrize(
    "names",
    [
        np.array([b"\xff", b"a", b"b"]),
        np.array([0xD800, 97, 98], "<u4").view("<U1"),
        np.array([0xFFFFFFFF, 97, 98], "<u4").view("<U1"),
    ],
    ids=["bytes", "half a pair", "no character"],
)
def test_names_of_classes_are_texts(names):
    np.savez("a.npz", **tiny.arrays(), class_names=names)
    with pytest.raises(InputError, match="class_names of a.npz can't be read"):
        image_archives.read_npz("a.npz")


# --- bombs ------------------------------------------------------------------------------


def npy(shape, dtype="|u1"):
    """The bytes of an array's header, without the array."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def bomb_of_zeros(path):
    zeros(path, "x_train.npy", 2**30, npy((2**30 // 16, 4, 4, 1)))


def bomb_of_a_header(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((2**40, 4, 4, 1)))


def bomb_of_a_negative_shape(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((-1, -(2**40))))


def bomb_of_nothing(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((2**40,), "|S0"))


def bomb_of_two_sizes(path):
    """The directory of the archive says 10 GB of a member that is stored."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((10**10,)))
        archive.infolist()[0].file_size = 10**10


def bomb_of_one_part_many_times(path):
    """A thousand members that are all the same bytes of the file."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x_train.npy", npy((2**20,)) + bytes(2**20))
        for i in range(1000):
            member = zipfile.ZipInfo(f"x{i}.npy")
            first = archive.infolist()[0]
            member.header_offset, member.CRC = first.header_offset, first.CRC
            member.file_size, member.compress_size = first.file_size, first.compress_size
            archive.filelist.append(member)
            archive.NameToInfo[member.filename] = member


def bomb_of_brackets(path):
    with zipfile.ZipFile(path, "w") as archive:
        shape = "(" * 3000 + "1" + ")" * 3000
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}\n".encode()
        archive.writestr(
            "x_train.npy", b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        )


BOMBS = [value for name, value in list(globals().items()) if name.startswith("bomb_of_")]


@pytest.mark.parametrize("make", BOMBS)
def test_an_archive_of_arrays_takes_little_memory(make, bounded):
    make("a.npz")
    assert os.path.getsize("a.npz") < 4 * 2**20
    with pytest.raises(InputError, match="a.npz can't be read .*: remove it"):
        files.read_arrays("a.npz", "remove it")


@pytest.mark.parametrize("make", BOMBS)
def test_a_data_set_takes_little_memory(make, bounded):
    make("a.npz")
    with zipfile.ZipFile("a.npz", "a") as archive:
        for name, array in tiny.arrays().items():
            if name != "x_train":
                file = io.BytesIO()
                np.save(file, array)
                archive.writestr(f"{name}.npy", file.getvalue())
    with pytest.raises(InputError, match="a.npz can't be read"):
        image_archives.read_npz("a.npz")


def test_a_member_longer_than_it_says_takes_little_memory(finished, bounded):
    path = shutil.copy(finished / "net.keras", "a.keras")
    rewritten(path, lambda members: {"config.json": members["config.json"]})
    zeros(path, "model.weights.h5", 2**30)
    data = pathlib.Path(path).read_bytes()
    with zipfile.ZipFile(path) as archive:
        size = archive.getinfo("model.weights.h5").file_size.to_bytes(4, "little")
    where = data.rindex(size)
    data = data[:where] + (1000).to_bytes(4, "little") + data[where + 4 :]
    pathlib.Path(path).write_bytes(data)
    with pytest.raises(InputError, match="a.keras can't be read as a Keras model"):
        network.load("a.keras")


def test_what_compresses_well_is_still_read():
    everything = {f"best|linf:8/255 n=50000|{i}": np.ones(50_000, bool) for i in range(60)}
    np.savez_compressed("a.npz", **everything)
    assert len(files.read_arrays("a.npz", "remove it")) == 60


# --- damage -----------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["net.keras", "data.npz", "run/verdicts.npz"])
def test_a_file_cut_short_is_a_sentence(copy, finished, capsys, name, share):
    path = copy / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    if name.startswith("run/"):
        assert again(copy, finished) == 2
    else:
        assert tiny.evaluate(copy, copy / "net.keras", "--eval_dir=new") == 2
    refusal(capsys, path)
