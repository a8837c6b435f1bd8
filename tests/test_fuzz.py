"""Whatever is typed or read: exit code 0 or 2, one sentence, and never a traceback.

200 cases, always the same; FUZZ=5 draws five times as many. A case that failed once stays
as an `@example`.
"""

import contextlib
import functools
import io
import itertools
import json
import os
import pathlib
import shutil
import tempfile
import warnings
import zipfile

import numpy as np
import pytest
import tiny  # vfd_tf before TensorFlow
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from vfd_tf.cli import flags, main
from vfd_tf.experiments.runner import Runner

pytestmark = pytest.mark.slow


def cases(count):
    return settings(
        max_examples=count * int(os.environ.get("FUZZ", 1)),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A folder with data.npz, net.keras, net.weights.h5, the run "run" and "net.eval"."""
    folder = tiny.written(tmp_path_factory.mktemp("whole"))
    tiny.model().save_weights(folder / "net.weights.h5")
    tiny.model().save(folder / "net.h5")
    with contextlib.chdir(folder):
        assert main.main(["run.py", *TRAIN]) == 0
        assert main.main(["run.py", *EVALUATE]) == 0
    return folder


DATA = ("--dataset=npz:data.npz", "--epsilon=0.1", "--eval_attacks=fgsm,pgd2")
TRAIN = [*tiny.flags(pathlib.Path()), *DATA, "--workdir=run"]
EVALUATE = ["evaluate", "--model=net.keras", *DATA]


@contextlib.contextmanager
def copied(folder):
    """Inside, the working directory is a copy of a folder."""
    with tempfile.TemporaryDirectory() as scratch:
        here = shutil.copytree(folder, f"{scratch}/here")
        with contextlib.chdir(here):
            yield pathlib.Path(here)


def obeyed(*words):
    """Runs a command; the law that it has to obey."""
    out, error = io.TextIOWrapper(io.BytesIO(), "utf8"), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(error),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        code = main.main(["run.py", *words])
    said = error.getvalue()
    assert code in (0, 2), f"{words}: {said}"
    assert "Traceback" not in said and "This was not expected" not in said, said
    assert not list(pathlib.Path.cwd().rglob("vfd-error-*")), said
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == (code == 2), said
    return code


# --- flags ------------------------------------------------------------------------------

NAMES = sorted(set(flags.define()) - {"strategy", "data_dir"})
EDGES = ["", "0", "-1", "1", "nan", "inf", "-inf", "1e400", "1e-400", "9" * 400, "none"]
EDGES += ["true", "8/255", "1/0", "/", "1,2", ",", ",,", "a=b", "ü", "\0", "\n", "'", '"']
EDGES += ["..", "../..", "/", "/dev/null", "run", "net.keras", "data.npz", "npz:", "npz:.."]
EDGES += [
    "dir:.",
    "dir:",
    "keras:",
    "https://",
    "vfd",
    "pgd20",
    "l2",
    "\ud800",
    "%s",
    "$x$",
]
VALUES = st.sampled_from(EDGES) | st.integers().map(str) | st.floats().map(str)
VALUES |= st.text(max_size=8)
CHOSEN = {
    name: sorted(flag.parser.field.metadata.get("choices") or ())
    for name, flag in ((name, flags.define()[name]) for name in NAMES)
    if hasattr(flag.parser, "field")
}


@st.composite
def flag(draw):
    name = draw(st.sampled_from(NAMES) | st.text(max_size=6))
    known = [value for value in CHOSEN.get(name, ())]
    value = draw(st.sampled_from(known) | VALUES if known else VALUES)
    return draw(st.sampled_from([f"--{name}={value}", f"--{name}", f"--no{name}"]))


MODES = st.sampled_from([["train"], ["evaluate"], ["info"], ["plot"], []])
PATHS = st.lists(st.sampled_from(["run", "net.keras", "data.npz", ".", "none", ""]))


@cases(60)
@example([], ["--method="], [])
@example([], ["--distill=\n"], [])
@example(["evaluate"], ["--eval_dir=\0"], [])
@example(["evaluate"], ["--eval_dir=\udc80"], [])
@example(["info"], [], ["\udc80"])
@given(MODES, st.lists(flag(), max_size=4), PATHS | st.just([]))
def test_flags(whole, mode, words, paths):
    """Training is left out: whether a run is refused is decided before."""
    given = [w for w in TRAIN if not w.startswith("--workdir")] if mode != ["plot"] else []
    if mode == ["evaluate"]:
        given = ["--model=net.keras", *DATA]
    with copied(whole), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "run", lambda self, wait=False: [])
        obeyed(*mode, *(paths if mode and mode != ["train"] else []), *given, *words)


LINES = st.text(max_size=30) | flag()
LINES |= st.sampled_from(["--flagfile=a.flags", "--flagfile=b.flags", "--flagfile", "# x"])
LINES |= st.sampled_from(
    ["--flagfile=.", "--flagfile=/dev/null", "--recipe=demo", "--help"]
)
FILES = st.lists(LINES, max_size=5).map(
    lambda lines: "\n".join(lines).encode("utf8", "replace")
)
FILES |= st.binary(max_size=60)


@cases(40)
@given(FILES, FILES)
def test_flagfiles(whole, one, other):
    with copied(whole), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "run", lambda self, wait=False: [])
        pathlib.Path("a.flags").write_bytes(one)
        pathlib.Path("b.flags").write_bytes(other)
        obeyed(*TRAIN[:-1], "--flagfile=a.flags")


# --- files ------------------------------------------------------------------------------

GONE = "gone"
TEXTS = st.text(max_size=5) | st.sampled_from(["$\\frac$", "vfd(", "n=0", "a:b n=4"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
SHARE = st.floats(0, 1, exclude_max=True)


def cut(data, share):
    return data[: int(share * len(data))]


def turned(data, places):
    data = bytearray(data)
    for share, bit in places if data else ():
        data[int(share * len(data))] ^= 1 << bit
    return bytes(data)


def replaced(data, other):
    return other if isinstance(other, bytes) else json.dumps(other).encode()


def swapped(data, old, new):
    """The first of some bytes are others."""
    assert old in data
    return data.replace(old, new, 1)


def reworded(data, place, value):
    """One value of a JSON text is another, or gone; of what is none, all of it."""
    try:
        whole = json.loads(data)
    except ValueError:
        return replaced(data, value)
    if isinstance(whole, dict):
        whole.pop("checksum", None)  # a stranger's would be right
    if isinstance(place, float):
        every = places_of(whole)
        place = every[int(place * len(every))]
    *outer, last = place
    if place == ("checksum",):
        return json.dumps(whole).encode()
    entry = functools.reduce(lambda entry, key: entry[key], outer, whole)
    if value == GONE:
        del entry[last]
    else:
        entry[last] = value
    return json.dumps(whole).encode()


def places_of(entry, before=()):
    """The ways, key by key, to all values in what JSON holds."""
    if not isinstance(entry, (dict, list)):
        return []
    keys = entry if isinstance(entry, dict) else range(len(entry))
    ways = [(*before, key) for key in keys]
    return ways + [w for way in ways for w in places_of(entry[way[-1]], way)]


def rearranged(data, share, other):
    """An .npz with one array that is another, or gone."""
    with np.load(io.BytesIO(data)) as saved:
        arrays = dict(saved)
    name = sorted(arrays)[int(share * len(arrays))]
    array, file = arrays.pop(name), io.BytesIO()
    if other == "reworded" and array.dtype.kind == "U":
        text = reworded(str(array).encode(), share, None)
        arrays[name] = np.array(text.decode())
    elif other in OTHERS:
        arrays[name] = OTHERS[other](array)
    np.savez(file, **arrays)
    return file.getvalue()


def reconfigured(data, share, value):
    """A .keras file with another value in its configuration."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w") as new:
        for name in old.namelist():
            text = old.read(name)
            if name == "config.json":
                text = reworded(text, share, value)
            new.writestr(name, text)
    return file.getvalue()


OTHERS = {
    "empty": lambda array: np.zeros(0),
    "larger": lambda array: np.zeros((2, 3)),
    "a text": lambda array: np.array("text"),
    "texts": lambda array: array.astype("U"),
    "in a row": lambda array: array[None],
    "floats": lambda array: (
        array.astype("float64") if array.dtype.kind in "biuf" else array
    ),
    "NaN": lambda array: np.full(array.shape, np.nan),
    "flat and short": lambda array: array.ravel()[:3],
    "an object": lambda array: np.array({}, object),
}
VALUE = JSON | st.just(GONE)
REWORDED = st.tuples(st.just(reworded), SHARE, VALUE)
RECONFIGURED = st.tuples(st.just(reconfigured), SHARE, VALUE)
REARRANGED = st.tuples(
    st.just(rearranged), SHARE, st.sampled_from([*OTHERS, "reworded", GONE])
)
BIT = st.tuples(SHARE, st.integers(0, 7))
DAMAGE = st.one_of(
    st.tuples(st.just(cut), SHARE),
    st.tuples(
        st.just(turned),
        st.lists(st.tuples(SHARE, st.integers(0, 7)), min_size=1, max_size=3),
    ),
    st.tuples(st.just(replaced), st.binary(max_size=40) | JSON),
    st.sampled_from([(GONE,), ("a folder",)]),
)


@st.composite
def spoilt(draw, names):
    """One of some files, and what happens to it."""
    name = draw(st.sampled_from(names))
    if name.endswith(".json") and draw(st.integers(0, 3)):
        return name, draw(REWORDED)
    if name.endswith(".npz") and draw(st.booleans()):
        return name, draw(REARRANGED)
    if name.endswith(".keras") and draw(st.booleans()):
        return name, draw(RECONFIGURED)
    return name, draw(DAMAGE)


def spoil(path, damage):
    how, *what = damage
    if how == GONE:
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(how(path.read_bytes(), *what))


OF_RUN = ["run.json", "results.json", "verdicts.npz", tiny.CHECKPOINT, "history.csv"]
OF_RUN += ["best.keras", "last.keras", "flags.txt", "metrics.jsonl"]
ON_RUN = {
    "info": ["info", "run"],
    "plot": ["plot", "run", "--plot_y=fgsm", "--out=a.png"],
    "evaluate": ["evaluate", "--model=run", *DATA],
    "train": TRAIN,
    "continue": [*TRAIN, "--workdir=new", "--continue_from=run", "--epochs=2"],
    "replay": ["--flagfile=run/flags.txt", "--workdir=run", *DATA, "--max_images=4"],
}
CELL = "accuracies", "last", "linf:0.1 n=8", "fgsm"


@cases(50)
@given(spoilt(OF_RUN), st.sampled_from(sorted(ON_RUN)), st.booleans())
@example(("run.json", (reworded, ("identity", "method"), None)), "plot", False)
@example(("run.json", (reworded, ("identity", "helpers"), GONE)), "plot", False)
@example(("run.json", (reworded, ("identity", "dataset"), "$\\frac$")), "plot", False)
@example(("run.json", (reworded, ("identity", "arch"), {"a": 1})), "plot", False)
@example(("run.json", (reworded, ("identity", "dataset"), "\ud800")), "info", False)
@example(("run.json", (reworded, ("fields", "recipe"), None)), "continue", False)
@example(("run.json", (reworded, ("fields", "recipe"), 1.5)), "train", False)
@example(("run.json", (reworded, ("fields", "recipe", "epochs"), "x")), "continue", False)
@example(("results.json", (reworded, CELL, "x")), "train", False)
@example(("results.json", (reworded, CELL, 10**400)), "train", False)
@example(("results.json", (reworded, CELL[:-1], [])), "train", False)
@example(("results.json", (replaced, b"[" * 100_000)), "info", False)
@example(("verdicts.npz", (rearranged, 0.0, "flat and short")), "train", False)
@example((tiny.CHECKPOINT, (rearranged, 0.0, "reworded")), "train", True)
def test_run_directories(whole, file, command, unfinished):
    name, damage = file
    with copied(whole) as here:
        if unfinished:
            (here / "run/results.json").unlink()
        if (here / "run" / name).exists():
            spoil(here / "run" / name, damage)
        obeyed(*ON_RUN[command])


JOURNAL = "journal/*.npz"
OF_RESULTS = ["results.json", "verdicts.npz", "journal/owner.json", JOURNAL]


@cases(20)
@given(spoilt(OF_RESULTS))
@example(("verdicts.npz", (rearranged, 0.0, "empty")))
@example(("results.json", (reworded, ("rows", 0, "accuracy"), 10**400)))
@example(("results.json", (reworded, ("rows", 0, "table"), GONE)))
@example(("results.json", (reworded, ("rows", 0, "attack"), "\ud800")))
@example((JOURNAL, (rearranged, 0.99, "larger")))
def test_results(whole, file):
    name, damage = file
    with copied(whole) as here:
        spoil(min((here / "net.eval").glob(name)), damage)
        obeyed(*EVALUATE)


SMALL = ["--arch=resnet8", "--width=0.1", "--distill=vfd", "--pgd_steps=1"]
INPUTS = {
    "model": ("net.keras", EVALUATE),
    "h5": ("net.h5", [*EVALUATE, "--model=net.h5"]),
    "surrogate": ("net.h5", [*EVALUATE, "--surrogate=net.h5"]),
    "teacher": ("net.keras", [*TRAIN, *SMALL, "--workdir=new", "--teacher=net.keras"]),
    "arch": ("net.keras", [*TRAIN, "--workdir=new"]),
    "init": ("net.weights.h5", [*TRAIN, "--workdir=new", "--init=net.weights.h5"]),
    "data": ("data.npz", [*TRAIN, "--workdir=new"]),
    "test data": ("data.npz", EVALUATE),
    "shown": ("net.keras", ["info", "net.keras"]),
}


@st.composite
def spoilt_inputs(draw):
    use = draw(st.sampled_from(sorted(INPUTS)))
    return use, draw(spoilt([INPUTS[use][0]]))[1]


@cases(30)
@given(spoilt_inputs())
@example(("init", (swapped, b"TREE", b"TREF")))
@example(("data", (rearranged, 0.99, "an object")))
def test_input_files(whole, file):
    use, damage = file
    name, command = INPUTS[use]
    with copied(whole) as here:
        spoil(here / name, damage)
        obeyed(*command)


# --- every value of every JSON file -----------------------------------------------------

OTHER_VALUES = itertools.cycle([GONE, None, "x", [], {"a": 1}, [[1]], -1.5, 10**400])
OF_JSON = {
    "run/run.json": ("info", "plot", "continue", "train"),
    "run/results.json": ("info", "plot", "train"),
    "net.eval/results.json": (),
    "net.eval/journal/owner.json": (),
}


@pytest.mark.parametrize("name", OF_JSON)
def test_any_value_may_be_another(whole, name):
    """Training is left out: another owner's directory is refused before."""
    with copied(whole) as here, pytest.MonkeyPatch.context() as patch:
        patch.setattr(Runner, "_train", lambda self, networks: None)
        data = (here / name).read_bytes()
        for place in places_of(json.loads(data)):
            (here / name).write_bytes(reworded(data, place, next(OTHER_VALUES)))
            for command in [ON_RUN[c] for c in OF_JSON[name]] or [EVALUATE]:
                obeyed(*command)
