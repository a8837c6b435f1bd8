"""docs/methods.md: written from the code as it is, its costs counted by hand."""

import importlib.util
import pathlib
import re
import shlex
from decimal import Decimal

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
def data(catalogue):
    return catalogue.read()


@pytest.fixture(scope="module")
def published(data):
    """(entry, row) of all published numbers."""
    kinds = ("method", "distill", "option", "mixture")
    entries = [(key, own) for kind in kinds for key, own in data[kind].items()]
    return [(key, row) for key, own in entries for row in own["published"]]


# Models of RobustBench whose footnote says that the radius is 0.031, and not 8/255.
OTHER_RADIUS = {
    "Zhang2019Theoretically",
    "Cui2020Learnable_34_10",
    "Cui2020Learnable_34_10_LBGAT0",
    "Cui2020Learnable_34_10_LBGAT6",
}
ALONE = {"hat", "ikl", "awp", "nuts"}  # have rows in the overview that compare with none


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


def test_published_numbers_belong_to_a_method_and_every_source_and_setting_is_used(
    data, published
):
    for kind, known in {"method": METHODS, "distill": DISTILLATIONS}.items():
        assert data[kind].keys() <= known.keys()
    assert {row["source"] for _, row in published} == data["sources"].keys()
    assert {row["of"] for _, row in published if "of" in row} == data["setting"].keys()


def test_every_row_names_its_data_network_and_source(data, published):
    for key, row in published:
        assert row["data"] in ("CIFAR-10", "CIFAR-100"), key
        assert re.match(r"(Wide)?ResNet-\d+", row["network"]), key
        assert row["source"] in data["sources"], key
        assert ("model" in row) == (row["source"] == "robustbench"), key
        known = {"of", "data", "network", "recipe", "form", "said", "radius", "source"}
        numbers = {"clean", "clean_pm", "pgd20", "autoattack", "autoattack_pm"}
        assert row.keys() <= known | numbers | {"model", "overview"}, key


def test_robust_accuracy_is_below_clean_accuracy_and_all_are_percent(published):
    for key, row in published:
        clean = row.get("clean", 100)
        robust = [row[column] for column in ("autoattack", "pgd20") if column in row]
        assert robust and all(0 <= value < clean <= 100 for value in robust), key
        assert robust == sorted(robust), f"{key}: AutoAttack is no weaker than PGD-20"
        spreads = [column for column in row if column.endswith("_pm")]
        assert all(column.removesuffix("_pm") in row for column in spreads), key


def test_rows_with_another_radius_say_so(catalogue, published):
    lines = catalogue.FILE.read_text().splitlines()
    for key, row in published:
        other = row.get("model") in OTHER_RADIUS
        assert row.get("radius") == ("0.031" if other else None), key
        if other:
            (line,) = [line for line in lines if f"`{row['model']}`" in line]
            assert "radius 0.031" in line
    assert {row.get("model") for _, row in published} >= OTHER_RADIUS


def test_rows_of_the_overview_compare_with_rows_of_other_entries(published):
    shown = [(key, row) for key, row in published if row.get("overview")]
    settings = {}
    for key, row in shown:
        assert row["data"] == "CIFAR-10"
        if "of" in row:
            settings.setdefault(row["of"], set()).add(key)
    for setting, keys in settings.items():
        assert len(keys) > 1 or setting == "fastat", (setting, keys)  # one for EMA's effect
    assert {key for key, row in shown if "of" not in row} == ALONE
    assert "init" not in {key for key, _ in shown}


def test_numbers_keep_their_digits_and_have_no_more_than_two(catalogue):
    shown = [
        catalogue._percent(value and Decimal(value), spread and Decimal(spread))
        for value, spread in [("82.1", None), ("49.153", "0.152"), (None, None)]
    ]
    assert shown == ["82.1", "49.15 ± 0.15", "–"]


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
    ours = [
        catalogue.Ours(row, tuple(words.split()), 80.0, 40.0)
        for row, words in {
            "TRADES": "--method=trades --distill=none",
            "TRADES+VFD-Adv": "--method=trades --distill=vfd",
            "PGD-AT, smooth": "--method=pgd-at --distill=none --label_smoothing=0.4",
        }.items()
    ]

    def rows(kind, key):
        entry = catalogue.Entry(kind, key, "", "", "")
        return [own.row for own in catalogue._ours(entry, ours)]

    assert rows("method", "trades") == ["TRADES"]
    assert rows("distill", "vfd") == ["TRADES+VFD-Adv"]
    assert rows("option", "label_smoothing") == ["PGD-AT, smooth"]
    assert rows("method", "hat") == []


ROWS_HEAD = "row,student,setting,seed,column,value,images\n"
CURVES_HEAD = "row,curve,point,student,seed,column,value,images\n"


@pytest.fixture
def tables(catalogue, tmp_path, monkeypatch):
    """(rows, curves) -> writes both tables of the suite."""
    folder = tmp_path / "rivals" / "report" / "tables"
    folder.mkdir(parents=True)
    monkeypatch.setattr(catalogue, "OURS", tmp_path / "rivals")

    def write(rows, curves=""):
        (folder / "rivals.csv").write_text(ROWS_HEAD + rows)
        if curves:
            (folder / "rivals-curves.csv").write_text(CURVES_HEAD + curves)

    return write


def both(row, clean, robust, head="average,,0", images=100):
    """Lines of a row, or of a point of a curve."""
    values = (("clean", clean), ("autoattack", robust))
    return "".join(f"{row},{head},{name},{value},{images}\n" for name, value in values)


def test_our_numbers_are_means_over_seeds_of_averaged_students(catalogue, tables):
    """Rows and points of the suite's tables, by hand."""
    body = "HAT,average,,0,clean,60,100\nHAT,average,,1,clean,62,100\n"
    body += "HAT,average,,mean,clean,99,100\n"
    body += "HAT,average,,0,autoattack,20,100\nHAT,last,,0,autoattack,99,100\n"
    body += "GAT,average,,0,clean,50,100\n"  # without a verdict of AutoAttack yet
    points = [("sweep,1", 30), ("mixture,0.8", 40)]
    curves = "".join(both("TRADES", n, n, f"{at},average,0") for at, n in points)
    tables(body, curves)
    ours, said = catalogue.measured()
    assert {own.row: (own.clean, own.autoattack, own.point) for own in ours} == {
        "HAT": (61, 20, False),
        "TRADES, sweep 1": (30, 30, True),
        "TRADES, mixture 0.8": (40, 40, True),
    }
    assert "--trades_beta=1" in ours[1].words
    assert "first 100 test images" in said

    def rows(kind, key):
        entry = catalogue.Entry(kind, key, "", "", "")
        return [own.row for own in catalogue._ours(entry, ours)]

    assert rows("method", "trades") == ["TRADES, sweep 1"]
    assert rows("mixture", "probabilities") == ["TRADES, mixture 0.8"]


def test_the_overview_has_the_default_row_and_the_section_all_points(catalogue, tables):
    """Neither a better point of the curve nor a better row of another option."""
    body = both('"PGD-AT (label smoothing 0.4)"', 76, 39) + both("PGD-AT", 75, 38)
    body += both("TRADES", 70.5, 35.25)
    tables(body, both("TRADES", 72, 45, "sweep,1,average,0"))
    page = catalogue.page()
    line = {key: f"| [{key}](#" for key in ("trades", "pgd-at", "label_smoothing", "hat")}
    cells = {
        key: [x for x in page.splitlines() if x.startswith(start)][0].split("|")[-2].strip()
        for key, start in line.items()
    }
    assert cells == {
        "trades": "70.50 / 35.25",
        "pgd-at": "75.00 / 38.00",
        "label_smoothing": "76.00 / 39.00",
        "hat": "–",
    }
    section = page.split("### `trades`")[1].split("### ")[0]
    assert "| ours: TRADES " in section and "| ours: TRADES, sweep 1 " in section
    assert "on the first 100 test images" in " ".join(page.split())


def test_fewer_images_under_autoattack_are_said(catalogue, tables):
    tables("HAT,average,,0,clean,60,10000\nHAT,average,,0,autoattack,20,1000\n")
    _, said = catalogue.measured()
    assert "first 10,000 test images, 1,000 of them under AutoAttack" in said


@pytest.mark.parametrize(
    "body", ["", "HAT,average,,0,clean,,\n", "HAT,last,,0,clean,1,9\n"]
)
def test_tables_without_values_are_no_numbers_of_ours(catalogue, tables, body):
    tables(body)
    assert catalogue.measured() == ([], catalogue.NOT_YET)
