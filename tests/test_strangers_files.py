"""Files from strangers: none runs code, unfolds without bound, or leads out of its folder.

Every attack is a real file. Its payload would set CANARY in the environment, or write
outside of the folder: neither may happen, and the user gets one sentence.
"""

import io
import json
import os
import pathlib
import pickle
import shutil
import socket
import tarfile
import tracemalloc
import zipfile

import h5py
import keras
import numpy as np
import psutil
import pytest
import tensorflow as tf
import tiny  # vfd_tf before TensorFlow

from vfd_tf import InputError, archives, files
from vfd_tf.cli import main
from vfd_tf.data import image_archives
from vfd_tf.models import classifiers, initial, model_files, network
from vfd_tf.training import cluster, saving

CANARY = "VFD_TF_CANARY"
L = keras.layers


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


def reconfigured(path, change):
    """A .keras file whose configuration `change` has changed."""

    def changed(members):
        config = json.loads(members["config.json"])
        change(config)
        return members | {"config.json": json.dumps(config)}

    return rewritten(path, changed)


# --- code in a model --------------------------------------------------------------------


def a_lambda(path):
    tiny.model(L.Lambda(same)).save(path)
    reconfigured(path, put_lambda)


def same(x):
    return x


def layer_of(config, kind="Lambda"):
    return next(e for e in config["config"]["layers"] if e["class_name"] == kind)


def put_lambda(config):
    """Marshalled code that sings, in the place of a function's name."""
    code = keras.src.utils.python_utils.func_dump(eval(LAMBDA, {}))
    parts = dict(zip(("code", "defaults", "closure"), code, strict=True))
    layer_of(config)["config"]["function"] = {"class_name": "__lambda__", "config": parts}


LAMBDA = f"lambda x: [__import__('os').environ.update({CANARY}='dead'), x][1]"


def named(module, name, registered=None):
    """A file whose Dense layer is this class, or has this function as its activation."""

    def as_class(path):
        def change(config):
            entry = layer_of(config, "Dense")
            entry |= {"module": module, "class_name": name}
            entry |= {"registered_name": registered}

        tiny.model().save(path)
        reconfigured(path, change)

    def as_function(path):
        def change(config):
            function = {"module": module, "class_name": "function", "config": name}
            function |= {"registered_name": registered or name}
            layer_of(config, "Dense")["config"]["activation"] = function

        tiny.model().save(path)
        reconfigured(path, change)

    return as_class, as_function


FOREIGN = {
    "os.system": named("os", "system"),
    "the canary": named(__name__, "sing"),
    "a class of ours that is not registered": named(__name__, "Payload"),
    "subprocess": named("subprocess", "Popen"),
    "a download of Keras": named("keras.utils", "get_file"),
    "a download of a data set": named("keras.datasets.mnist", "load_data"),
    "a download behind a dot": named("keras", "datasets.mnist.load_data"),
    "a switch of Keras": named("keras.config", "enable_unsafe_deserialization"),
}
FOREIGN = [
    pytest.param(make, id=f"{name}, as a {kind}")
    for name, both in FOREIGN.items()
    for kind, make in zip(("class", "function"), both, strict=True)
]
OTHERS_NAME = named(__name__, "sing", "vfd_tf>VFD")[1]
FOREIGN.append(pytest.param(OTHERS_NAME, id="a function under the name of a class of ours"))


@pytest.mark.parametrize("make", FOREIGN)
def test_a_model_names_no_code_but_that_of_keras_or_registered(make):
    make("a.keras")
    with pytest.raises(InputError, match="it needs .*, which is not Keras's; load it in"):
        network.load("a.keras")


def test_a_lambda_is_refused_before_it_runs(copy, capsys):
    a_lambda("lambda.keras")
    for words in (["info"], ["evaluate", f"--dataset=npz:{copy / 'data.npz'}"]):
        assert main.main(["run.py", *words, "lambda.keras"]) == 2
        refusal(capsys, "lambda.keras", "holds a Lambda layer, which runs code from the")
    assert tiny.train(copy, "--arch=lambda.keras", "--workdir=new") == 2
    refusal(capsys, "holds a Lambda layer, which runs code from the file")


def test_the_lambda_of_these_tests_would_sing():
    a_lambda("lambda.keras")
    try:
        keras.saving.load_model("lambda.keras", safe_mode=False)
        assert os.environ.pop(CANARY) == "dead"
    finally:
        os.environ.pop(CANARY, None)


def test_a_lambda_in_an_h5_file_is_refused():
    tiny.model(L.Lambda(eval(LAMBDA, {}))).save("a.h5")
    os.environ.pop(CANARY, None)  # of the model that was built here
    with pytest.raises(InputError, match="holds a Lambda layer"):
        network.load("a.h5")


@keras.saving.register_keras_serializable(package="strangers")
class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@keras.saving.register_keras_serializable(package="strangers")
def halved(x):
    return x / 2


class Scoped(keras.layers.Layer):
    def call(self, x):
        return 3 * x


@pytest.mark.parametrize("ending", ["keras", "h5"])
def test_what_users_registered_still_loads(ending):
    layers = Doubled(), L.Lambda(halved), Scoped(), L.Activation(halved)
    model = tiny.model(*(layers if ending == "keras" else layers[:3:2]))
    model.save(f"a.{ending}")
    with keras.saving.custom_object_scope({"Scoped": Scoped}):
        loaded = network.load(f"a.{ending}")
    x = np.ones((2, 4, 4, 1), "float32")
    np.testing.assert_array_equal(loaded(x), model(x))


BUILT_IN = [
    L.Conv2D(2, 3, kernel_regularizer="l2", kernel_constraint="max_norm"),
    L.Conv2D(2, 3, activation=keras.activations.gelu, dtype="mixed_bfloat16"),
    L.Dense(3, kernel_initializer=keras.initializers.Orthogonal(seed=1)),
    L.Activation(keras.ops.relu6),
    L.TimeDistributed(L.Dense(2)),
    L.GaussianDropout(0.1, seed=1),
    keras.Sequential([L.Rescaling(0.5), L.Normalization(mean=0.5, variance=0.1)]),
]


@pytest.mark.parametrize("layer", BUILT_IN, ids=lambda layer: type(layer).__name__)
def test_whatever_keras_has_still_loads(layer):
    layer = type(layer).from_config(layer.get_config())
    x = keras.Input((4, 4, 1))
    y = keras.ops.concatenate([layer(x), layer(x)], -1) * 2 + 1
    model = keras.Model(x, L.Dense(3)(L.Flatten()(y)))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(), ["accuracy"])
    model.save("a.keras")
    network.load("a.keras")


@pytest.mark.parametrize("operation", ["WriteFile", "ReadFile"])
def test_a_saved_model_that_touches_files_is_refused(operation):
    layer, name = tf.Module(), os.path.abspath("../canary")

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 1))])
    def serve(x):
        if operation == "WriteFile":
            tf.io.write_file(name, "dead")
        else:
            x += tf.cast(tf.strings.length(tf.io.read_file("../secret.txt")), x.dtype)
        return tf.reduce_sum(x, (1, 2)) * tf.ones((1, 3))

    layer.serve = serve
    tf.saved_model.save(layer, "saved")
    with pytest.raises(InputError, match=f"saved holds the operation {operation}, "):
        classifiers.from_path("saved")


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


@pytest.mark.parametrize(
    "name", ["../canary", "/canary", "assets/../../canary", "..\\canary", "C:/canary"]
)
def test_members_of_a_model_stay_in_it(finished, name):
    path = shutil.copy(finished / "net.keras", "a.keras")
    rewritten(path, lambda members: {**members, name: b"dead", "assets/a": b""})
    with pytest.raises(InputError, match="a.keras can't be read .* leads out of it"):
        network.load("a.keras")


def test_names_in_a_run_directory_are_only_shown(copy, finished, capsys):
    """Paths as data set, helper, student and threat model."""
    outside = "../../canary"
    owner = json.loads((copy / "run/run.json").read_text())
    owner["identity"] |= {"dataset": outside, "arch": outside}
    owner["identity"]["helpers"] = {"teacher": outside, outside: outside}
    (copy / "run/run.json").write_text(json.dumps(owner))
    results = json.loads((copy / "run/results.json").read_text())
    row = {"clean": 50.0, "fgsm": 25.0}
    results["accuracies"] = {outside: {"linf:../canary n=8": row}}
    results.pop("checksum")
    (copy / "run/results.json").write_text(json.dumps(results))
    assert main.main(["run.py", "info", str(copy / "run")]) == 0
    words = [f"--plot_student={outside}", "--plot_y=fgsm", "--out=a.png"]
    assert main.main(["run.py", "plot", str(copy / "run"), *words]) == 0
    assert again(copy, finished) == 2
    refusal(capsys, "holds a run with")
    (copy / "new").mkdir()
    words = f"--continue_from={copy / 'run'}", f"--workdir={copy / 'new'}", "--epochs=2"
    assert tiny.train(copy, *words) == 2
    refusal(capsys, "is a run with")


def test_a_worker_unpacks_nothing_outside_its_folder(monkeypatch, tmp_path):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        member = tarfile.TarInfo("../../canary")
        archive.addfile(member, io.BytesIO(b""))
    worker = cluster.Cluster()
    worker.count, worker.index = 2, 1
    monkeypatch.setattr(worker, "from_chief", lambda data: packed.getvalue())
    with pytest.raises(tarfile.FilterError):
        worker.copy_folder("worker")
    assert os.listdir("worker") == []


@pytest.mark.parametrize("name", ["run.json", "results.json", "verdicts.npz"])
def test_a_file_that_never_ends_is_not_read(copy, finished, capsys, name):
    (copy / "run" / name).unlink()
    (copy / "run" / name).symlink_to("/dev/zero")
    assert again(copy, finished) == 2
    refusal(capsys, copy / "run" / name, "no plain file")


# --- bombs ------------------------------------------------------------------------------

LITTLE = 200 * 2**20


@pytest.fixture
def bounded():
    """No more memory than a little is taken, as Python and NumPy count it."""
    tracemalloc.start()
    yield
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < LITTLE, f"{peak:,} bytes"


def npy(shape, dtype="|u1"):
    """The bytes of an array's header, without the array."""
    file = io.BytesIO()
    header = {"descr": dtype, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue()


def zeros(path, name, size, head=b""):
    """A member of so many zeros, a thousandth of it in the file."""
    with (
        zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive,
        archive.open(name, "w", force_zip64=True) as file,
    ):
        file.write(head)
        for _ in range(size // 2**20):
            file.write(bytes(2**20))


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


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5", "assets/a.txt"])
def test_a_model_takes_little_memory(finished, member, bounded):
    path = shutil.copy(finished / "net.keras", "a.keras")
    left = {"config.json", "model.weights.h5", "metadata.json"} - {member}
    rewritten(path, lambda members: {name: members[name] for name in left})
    zeros(path, member, 2**30)
    with pytest.raises(InputError, match="a.keras can't be read as a Keras model: .*byte"):
        network.load("a.keras")


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


@pytest.mark.parametrize("ending", ["keras", "h5"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_layer_larger_than_the_file_is_refused_before_it_is_made(ending, nested, bounded):
    layers = [L.Conv2D(2, 3, name="large"), L.Conv2D(2, 1)]
    model = tiny.model(keras.Sequential(layers)) if nested else tiny.model(*layers)
    model.save(f"a.{ending}")
    whole = keras.Layer.add_weight
    path, wide = pathlib.Path(f"a.{ending}"), {"filters": 10**9}

    def enlarge(entry):
        if isinstance(entry, dict):
            if entry.get("name") == "large":
                entry |= wide
            entry = list(entry.values())
        for each in entry if isinstance(entry, list) else ():
            enlarge(each)

    if ending == "keras":
        reconfigured(path, enlarge)
    else:
        with h5py.File(path, "a") as file:
            config = json.loads(file.attrs["model_config"])
            enlarge(config)
            file.attrs["model_config"] = json.dumps(config)
    with pytest.raises(InputError, match="it asks for more weights than the [0-9]+ in it"):
        network.load(str(path))
    assert keras.Layer.add_weight is whole


def weights_with(change):
    """The file of net.keras's weights, changed as an h5py file."""

    def changed(members):
        file = io.BytesIO(members["model.weights.h5"])
        with h5py.File(file, "a") as weights:
            change(weights)
        return members | {"model.weights.h5": file.getvalue()}

    return changed


def huge(weights):
    group = weights["layers/dense/vars"]
    del group["0"]
    group.create_dataset("0", (10**6, 10**6), "float32", chunks=(1000, 1000))


def link_to_another_file(weights):
    del weights["layers/dense/vars/0"]
    weights["layers/dense/vars/0"] = h5py.ExternalLink("../secret.h5", "/x")


def in_another_file(weights):
    group = weights["layers/dense/vars"]
    del group["0"]
    place = [(os.path.abspath("../secret.txt"), 0, 12)]
    group.create_dataset("0", (3,), "float32", external=place)


def soft_link(weights):
    weights["layers/more"] = h5py.SoftLink("/layers")


@pytest.mark.parametrize("change", [huge, link_to_another_file, in_another_file, soft_link])
def test_weights_are_numbers_in_the_file_itself(finished, change, bounded):
    path = shutil.copy(finished / "net.keras", "a.keras")
    rewritten(path, weights_with(change))
    with pytest.raises(InputError, match="a.keras can't be read as a Keras model"):
        network.load("a.keras")
    network.load(str(finished / "net.keras")).save_weights("b.weights.h5")
    with h5py.File("b.weights.h5", "a") as weights:
        change(weights)
    with pytest.raises(InputError, match="b.weights.h5 can't be read"):
        initial.start(network.tap(tiny.model()), "b.weights.h5", "small")
    with pytest.raises(InputError, match="b.weights.h5 can't be read"):
        saving.restore_state("b.weights.h5", [])


@pytest.mark.parametrize(
    "text", [" " * (archives.LARGEST_JSON + 1), "[" * 100_000, '{"a": ' * 100_000]
)
@pytest.mark.parametrize("name", ["run/run.json", "run/results.json"])
def test_a_text_without_end_is_refused(copy, finished, capsys, name, text):
    (copy / name).write_text(text)
    assert again(copy, finished) == 2
    refusal(capsys, copy / name)


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


@pytest.mark.parametrize("place", np.linspace(0, 1, 25, endpoint=False))
def test_a_bit_that_turned_in_a_model_is_a_sentence_or_another_weight(finished, place):
    data = bytearray((finished / "net.keras").read_bytes())
    data[int(place * len(data))] ^= 16
    pathlib.Path("a.keras").write_bytes(bytes(data))
    try:
        network.load("a.keras")
    except InputError as error:
        assert "\n" not in str(error) and "a.keras" in str(error)


# --- the network ------------------------------------------------------------------------


def test_a_run_and_an_evaluation_listen_to_nobody_and_call_nobody(copy, monkeypatch):
    reached = []

    def watched(name):
        whole = getattr(socket.socket, name)

        def call(self, address, *rest):
            reached.append((name, address))
            return whole(self, address, *rest)

        monkeypatch.setattr(socket.socket, name, call)

    for name in ("connect", "connect_ex", "bind", "sendto"):
        watched(name)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *a, **k: reached.append(a) or look_up(*a, **k)
    )
    before = {each.laddr for each in psutil.Process().net_connections()}
    assert tiny.train(copy, "--workdir=new") == 0
    assert tiny.evaluate(copy, copy / "net.keras", "--eval_dir=results") == 0
    after = {each.laddr for each in psutil.Process().net_connections()}
    assert not reached and after <= before


def test_model_files_know_what_keras_reads():
    assert set(model_files.__dict__) >= {"CONFIG", "WEIGHTS"}
    assert keras.src.saving.saving_lib._CONFIG_FILENAME == model_files.CONFIG
    assert keras.src.saving.saving_lib._VARS_FNAME_H5 == model_files.WEIGHTS
