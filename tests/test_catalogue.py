"""docs/methods.md: written from the code as it is, its costs counted by hand."""

import importlib.util
import pathlib
import shlex
import tomllib

import pytest

from vfd_tf.cli import flags, main
from vfd_tf.training.distillation import DISTILLATIONS
from vfd_tf.training.methods import METHODS

DOCS = pathlib.Path(__file__).parents[1] / "docs"


@pytest.fixture(scope="module")
def catalogue():
    spec = importlib.util.spec_from_file_location("catalogue", DOCS / "catalogue.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data():
    return tomllib.loads((DOCS / "methods.toml").read_text())


def test_the_page_is_that_of_the_code_as_it_is(catalogue):
    assert catalogue.FILE.read_text() == catalogue.page(), "run `make catalogue`"


def test_every_method_and_distillation_has_a_section_and_every_link_its_place(catalogue):
    page = catalogue.FILE.read_text()
    for key in [*METHODS, *DISTILLATIONS]:
        assert key == "none" or f"\n### `{key}`\n" in page
    links = {part.split(")")[0] for part in page.split("](#")[1:]}
    assert links and all(f'<a id="{link}"></a>' in page for link in links)


@pytest.mark.parametrize(
    "words, own, beside",
    [
        ("--method=natural --distill=none", 3, 0),
        ("--method=pgd-at --distill=none", 10 * 2 + 3, 0),
        ("--method=trades --distill=none", 1 + 10 * 2 + 2 * 3, 0),
        ("--method=hat --distill=none", 1 + 10 * 2 + 3 * 3, 1),  # labels of x_h
        ("--method=hat --distill=vfd", 1 + 10 * 2 + 3 * 3, 2),  # x, and x'
        ("--method=trades --distill=vfd --awp_gamma=0.005", 1 + 10 * 2 + 2 * 6, 2),
        ("--method=pgd-at --distill=kd", 10 * 2 + 3, 2),  # two teachers on x'
        ("--method=trades --distill=lbgat", 1 + 10 * 2 + 2 * 3, 3),  # trains the partner
        ("--method=pgd-at --distill=rslad", 10 * 2 + 2 * 3, 2),  # in the attack, the loss
        ("--method=pgd-at --distill=igdm", 10 * 2 + 3 * 3, 4),  # and on x', x - d
        ("--method=gat --distill=none --pgd_steps=1", 1 + 2 + 2 * 3, 0),
    ],
)
def test_the_forwards_of_a_step_by_hand(catalogue, words, own, beside):
    assert catalogue.forwards(words) == (own, beside)


def test_published_numbers_have_a_source_and_belong_to_a_method(data):
    tables = {"method": METHODS, "distill": DISTILLATIONS}
    for kind, known in tables.items():
        assert data[kind].keys() <= known.keys()
    used = set()
    for kind in (*tables, "option", "mixture"):
        for row in (row for own in data[kind].values() for row in own.get("published", [])):
            assert row["source"] in data["sources"]
            assert 0 <= row.get("autoattack", 0) <= row["clean"] <= 100
            assert row.keys() <= {"data", "network", "clean", "autoattack", "source"}
            used.add(row["source"])
    assert used == data["sources"].keys()


def test_every_command_is_one(catalogue, data):
    lines = [
        x for x in catalogue.FILE.read_text().splitlines() if x.startswith("`python run")
    ]
    assert len(lines) >= len(METHODS) + len(DISTILLATIONS) - 1
    for line in lines:
        values = flags.define()
        values.set_gnu_getopt()
        words = values(shlex.split(line.strip("`").removeprefix("python ")))[1:]
        assert not words or words[0] in main.MODES
        assert flags.experiments(values)


def test_our_rows_stand_beside_the_method_or_distillation_they_use(catalogue):
    ours = {
        "TRADES": (("--method=trades", "--distill=none"), 80.0, 40.0),
        "TRADES+VFD-Adv": (("--method=trades", "--distill=vfd"), 81.0, 41.0),
        "PGD-AT, smooth": (
            ("--method=pgd-at", "--distill=none", "--label_smoothing=0.4"),
            70.0,
            42.0,
        ),
    }

    def rows(kind, key):
        entry = catalogue.Entry(kind, key, "", "", "")
        return [row for row, *_ in catalogue._ours(entry, ours)]

    assert rows("method", "trades") == ["TRADES"]
    assert rows("distill", "vfd") == ["TRADES+VFD-Adv"]
    assert rows("option", "label_smoothing") == ["PGD-AT, smooth"]
    assert rows("method", "hat") == []


def test_our_numbers_are_means_over_seeds_of_averaged_students(
    catalogue, tmp_path, monkeypatch
):
    """Rows and points of the suite's tables, by hand."""
    tables = tmp_path / "rivals" / "report" / "tables"
    tables.mkdir(parents=True)
    head = "row,student,setting,seed,column,value,images\n"
    body = "HAT,average,,0,clean,60,100\nHAT,average,,1,clean,62,100\n"
    body += "HAT,average,,0,autoattack,20,100\nHAT,last,,0,autoattack,99,100\n"
    body += "GAT,average,,0,clean,50,100\n"  # without a verdict of AutoAttack yet
    (tables / "rivals.csv").write_text(head + body)
    head = "row,curve,point,student,seed,column,value,images\n"
    body = "".join(
        f"TRADES,{curve},{point},average,0,{column},{value},100\n"
        for curve, point, value in (("sweep", 1, 30), ("mixture", 0.8, 40))
        for column in ("clean", "autoattack")
    )
    (tables / "rivals-curves.csv").write_text(head + body)
    monkeypatch.setattr(catalogue, "OURS", tmp_path / "rivals")
    ours, said = catalogue.measured()
    assert {name: row[1:] for name, row in ours.items()} == {
        "HAT": (61, 20),
        "TRADES, sweep 1": (30, 30),
        "TRADES, mixture 0.8": (40, 40),
    }
    assert "first 100 test images" in said

    def rows(kind, key):
        entry = catalogue.Entry(kind, key, "", "", "")
        return [row for row, *_ in catalogue._ours(entry, ours)]

    assert rows("method", "trades") == ["TRADES, sweep 1"]
    assert rows("mixture", "probabilities") == ["TRADES, mixture 0.8"]
