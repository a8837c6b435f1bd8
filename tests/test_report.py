"""The report of suites: from whatever exists, the same every time, with links that lead."""

import csv
import html.parser
import json
import os
import re
import urllib.parse

import numpy as np
import pytest
import suites

from vfd_tf.hyperparameters import InputError
from vfd_tf.suites.report import (
    build,
    collect,
    document,
    figures,
    section,
    suite_record,
    summary,
    tables,
    words,
)

UNFINISHED = {"TRADES+KD": "failed", "TRADES+BGAT": "running", "TRADES+LBGAT": "waiting"}


def summarized(workdir):
    return summary.summarize(collect.collect(suite_record.read(str(workdir))))


def rewrite(path, **changes):
    """Changes fields of a JSON file; None removes one."""
    whole = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: v for name, v in whole.items() if v is not None}))


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """A suite of one method that is half finished."""
    root = tmp_path_factory.mktemp("half")
    return suites.table(root, 80, groups=("TRADES",), students=("last", "average"),
                        unfinished=UNFINISHED)  # fmt: skip


@pytest.fixture(scope="module")
def built(half):
    return build.build([str(half)], str(half / "report"))


def cells(text):
    """{row: cells} of the Markdown tables in a text; of two heads the first."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in (*rows[2:], rows[0])}


def test_a_half_finished_suite_is_reported_as_far_as_it_is(half):
    found = summarized(half)
    text = document.main_table(section.section(str(half), str(half)))
    rows = cells(text)
    assert rows["TRADES+KD"][0] == "failed" and rows["TRADES+LBGAT"][0] == "waiting"
    value = next(row for row in found.rows if row.name == "TRADES").cells["pgd20"].mean
    assert rows["TRADES"][3].replace("*", "") == f"{value:.1f} (53.5, {value - 53.5:+.1f})"
    assert rows["accuracy (%)"][:2] == ["black-box PGD", "black-box FGSM"]
    assert rows["accuracy (%)"][6:] == [
        "ACC",
        "AutoAttack",
        "to the sweep",
        "to the mixture",
    ]
    assert "TRADES+VFD-Adv (averaged)" in rows and "3 of 6 commands are done" in text
    failed = next(row for row in found.rows if row.name == "TRADES+KD")
    assert failed.sentences == (
        "There is not enough memory: choose a smaller --batch_size.",
    )


def test_the_paper_stands_beside_the_last_student_and_not_beside_the_average(half):
    rows = {row.title: row for row in summarized(half).rows}
    assert rows["TRADES+VFD-Adv"].cells["clean"].paper == 87.5
    assert rows["TRADES+VFD-Adv"].cells["autoattack"].paper is None
    assert rows["TRADES+VFD-Adv (averaged)"].cells["clean"].paper is None


def test_the_best_of_a_method_is_bold(half):
    rows = {row.title: row for row in summarized(half).rows}
    best = [title for title, row in rows.items() if row.cells["clean"].best]
    assert best == ["TRADES+VFD-Adv", "TRADES+VFD-Adv (averaged)"]
    value = rows["TRADES+VFD-Adv"].cells["clean"]
    tex = tables.latex(summarized(half), tables.students(summarized(half))[0])
    assert rf"\textbf{{{value.mean:.1f}}}" in tex


def test_latex_has_the_layout_of_the_paper(half):
    found = summarized(half)
    lines = tables.latex(found, tables.students(found)[0]).split("\n")
    assert lines[0] == r"\begin{tabular}{lrrrrrrrrrr}"
    assert lines[2].startswith(
        r" & \multicolumn{3}{c}{black-box attack} & \multicolumn{3}{c}{white-box attack} & "
    )
    assert lines[3].startswith(r"\cmidrule(lr){2-4} \cmidrule(lr){5-7}")
    assert lines[4].startswith(r"Defense & PGD & FGSM & C\&W & PGD & FGSM & C\&W & ACC & ")
    assert lines[6].startswith("Vanilla & ") and lines[7] == r"\midrule"
    assert lines[8].startswith("TRADES & ") and lines[9].startswith("TRADES+KD & failed & ")
    for line in (*lines[4:5], lines[6], *lines[8:13]):
        assert line.count("&") - line.count(r"\&") == 10
    assert r"$-$" in lines[8] and "\\bottomrule" in lines


def test_csv_has_a_row_a_number(half, built):
    with open(half / "report" / "tables" / "table1.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [r for r in rows if (r["row"], r["student"], r["column"])
              == ("TRADES+VFD-Adv", "last", "pgd20")]  # fmt: skip
    cell = next(r for r in summarized(half).rows if r.title == row["row"]).cells["pgd20"]
    assert float(row["value"]) == cell.mean and float(row["paper"]) == 54.7
    assert (float(row["low"]), float(row["high"])) == cell.interval
    assert float(row["difference"]) == cell.mean - 54.7 and row["images"] == "80"
    assert float(row["p_value"]) == cell.p_value and row["base"] == "TRADES"
    missing = next(r for r in rows if r["row"] == "TRADES+KD")
    assert (missing["value"], missing["state"]) == ("", "failed")
    assert [r["value"] for r in rows if r["column"] == "distance to the sweep curve"]


def test_several_seeds_have_a_mean_and_a_deviation(tmp_path):
    workdir = suites.table(tmp_path, 80, seeds=(0, 1, 2), groups=("TRADES",))
    found = summarized(workdir)
    row = next(row for row in found.rows if row.name == "TRADES+KD")
    cell, values = row.cells["fgsm"], list(row.cells["fgsm"].values.values())
    assert (
        tables.value_text(cell) == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    )
    long = [
        r
        for r in tables.long_rows(found)
        if (r["row"], r["column"]) == ("TRADES+KD", "fgsm")
    ]
    assert [r["seed"] for r in long] == [0, 1, 2, "mean"]
    assert long[-1]["p_value"] == max(r["p_value"] for r in long[:-1])
    assert "Seeds" in dict(words.explanations(found))


def test_what_is_damaged_or_of_others_says_so_and_the_rest_stands(tmp_path):
    workdir = suites.table(tmp_path, 80, groups=("TRADES",))
    (tmp_path / "cifar10-resnet8-TRADES+KD-0" / "run.json").write_text('{"identity": ')
    verdicts = tmp_path / "cifar10-resnet8-TRADES+BGAT-0" / "verdicts.npz"
    verdicts.write_bytes(verdicts.read_bytes()[:200])
    owner = tmp_path / "cifar10-resnet8-TRADES+LBGAT-0" / "run.json"
    rewrite(
        owner, identity={**json.loads(owner.read_text())["identity"], "dataset": "svhn"}
    )
    stranger = tmp_path / "cifar10-resnet8-Vanilla-0"
    for name in os.listdir(stranger):
        (stranger / name).unlink()
    (stranger / "photo.jpg").write_text("a stranger's")
    (tmp_path / "cifar10-resnet8-TRADES-beta1-0" / "results.json").write_text("{")
    history = tmp_path / "cifar10-resnet8-TRADES-beta2-0" / "history.csv"
    history.write_text("epoch\nmany\n")  # whose verdicts are whole
    rows = {row.name: row for row in summarized(workdir).rows}
    for name, reason in {
        "TRADES+KD": "can't be read",
        "TRADES+BGAT": "verdicts.npz",
        "TRADES+LBGAT": "holds a run on svhn, and the suite is on cifar10",
        "Vanilla": "neither a run directory",
    }.items():
        (sentence,) = rows[name].sentences
        assert reason in sentence and "\n" not in sentence
        assert rows[name].cells["pgd20"].state == "damaged"
    assert rows["TRADES+VFD-Adv"].cells["pgd20"].mean is not None
    assert rows["TRADES+VFD-Adv"].distances["sweep"].points == 3  # one of four is damaged
    page = build.build([str(workdir)], str(workdir / "report"))
    with open(page) as file:
        text = file.read()
    assert "holds a run on svhn" in text and "history.csv is damaged" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("suite.json", None, "holds no suite.json; name the folder of a suite"),
        (
            "suite.json",
            '{"version": 2}',
            "is of version 2, and this report reads version 1",
        ),
        ("suite.json", '{"version": ', "suite.json can't be read"),
        ("suite.json", '{"version": 1, "name": "a"}', "suite.json can't be read"),
        ("suite.json", {"kind": "movie"}, "its kind is 'movie', none of table, sweep"),
        ("suite.json", {"images": {"clean": 0}}, "its numbers of images are not valid"),
        ("suite.json", {"entries": [{"row": "a"}]}, "suite.json can't be read"),
        ("suite.json", {"entries": 7}, "suite.json can't be read"),
        ("suite.json", {"title": [1]}, "one of its texts is not a text"),
        ("status.json", '{"node": 1}', "status.json is damaged"),
        ("status.json", "[", "status.json can't be read"),
    ],
)
def test_bad_suites_are_refused_in_one_sentence(tmp_path, name, content, message):
    workdir = suites.table(tmp_path, 40, groups=())
    if content is None:
        (workdir / name).unlink()
    elif isinstance(content, dict):
        rewrite(workdir / name, **content)
    else:
        (workdir / name).write_text(content)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        build.build([str(workdir)], str(tmp_path / "report"))
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)
    assert not (tmp_path / "report").exists()


def leaves(value, path=()):
    """Paths of all values in JSON, of a list's the first alone."""
    if path:
        yield path
    inside = value.items() if isinstance(value, dict) else ()
    inside = enumerate(value[:1]) if isinstance(value, list) else inside
    for key, member in inside:
        yield from leaves(member, (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["suite.json", "status.json"])
def test_odd_values_are_refused_or_reported(tmp_path, name):
    workdir = suites.table(tmp_path, 40, groups=("TRADES",), unfinished=UNFINISHED)
    path, odd = workdir / name, (None, 7, -1.5, "", [], {}, ["x"], {"a": 1}, "a\nb")
    whole = path.read_text()
    for place in leaves(json.loads(whole)):
        for value in odd:
            changed = inside = json.loads(whole)
            for key in place[:-1]:
                inside = inside[key]
            inside[place[-1]] = value
            path.write_text(json.dumps(changed))
            try:
                found = summarized(workdir)
            except InputError as error:
                assert "\n" not in str(error)
                continue
            assert words.facts(found) and tables.long_rows(found) is not None
            words.findings(found), words.explanations(found)


def test_no_suite_at_all_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no suite to report"):
        build.build([], str(tmp_path))


def test_a_suite_before_its_first_run_has_a_report(tmp_path):
    """No status.json, no run: everything is waiting."""
    names = {name: "waiting" for name, _, _ in suites.names(("HAT",))}
    workdir = suites.table(tmp_path, 40, groups=("HAT",), unfinished=names)
    (workdir / "status.json").unlink()
    found = section.section(str(workdir), str(tmp_path))
    assert found.figures == {}
    assert set(cells(document.main_table(found))["HAT"]) == {"waiting"}
    build.build([str(workdir)], str(workdir / "report"))


def everything(folder):
    """Path -> content of all files below a folder."""
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_same_suite_gives_the_same_files(half, built):
    first = everything(half / "report")
    assert {path.suffix for path in first} == {
        ".html",
        ".md",
        ".csv",
        ".tex",
        ".svg",
        ".png",
    }
    build.build([str(half)], str(half / "report"))
    assert everything(half / "report") == first


class Page(html.parser.HTMLParser):
    """Links, identifiers and open elements of a page."""

    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.sources = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        known = dict(attributes)
        if tag == "a":
            self.links.append(known["href"])
        self.ids += [known["id"]] if "id" in known else []
        self.sources += [known[name] for name in ("src", "xlink:href") if name in known]


def test_every_link_of_the_page_leads_somewhere(half, built):
    with open(built) as file:
        page = Page(file.read())
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            assert (half / "report" / urllib.parse.unquote(link)).exists(), link
    runs = [link for link in page.links if link.endswith("flags.txt")]
    assert len(runs) == 3 + 3  # of the rows, and of the sweep of TRADES
    assert any(link.endswith("TRADES%2BKD-0.log") for link in page.links)


def test_the_page_asks_for_nothing_else(built):
    with open(built) as file:
        text = file.read()
    assert all(source.startswith(("#", "data:")) for source in Page(text).sources)
    assert not re.search(r"(src|href)=.?https?:|@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_markdown_s_links_lead_somewhere(half, built):
    text = (half / "report" / "report.md").read_text()
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert any(link.endswith(".svg") for link in links)
    for link in links:
        assert (half / "report" / urllib.parse.unquote(link)).exists(), link


def test_names_of_others_are_text_in_the_page(tmp_path):
    workdir = suites.table(tmp_path, 40, groups=())
    rewrite(workdir / "suite.json", title="<script>alert(1)</script>", notes=["a < b & c"])
    with open(build.build([str(workdir)], str(workdir / "report"))) as file:
        text = file.read()
    assert "<script>alert" not in text and "a &lt; b &amp; c" in text


def test_sweeps_are_rows_by_their_value(tmp_path):
    workdir = suites.sweep(tmp_path, seeds=(0, 1))
    found = summarized(workdir)
    titles = [row.title for row in found.rows]
    assert titles[0] == "TRADES+VFD-Adv, vfd_lambda=0" and len(titles) == 4
    assert r"vfd\_lambda" in tables.latex(found, list(found.rows))
    _, figure = figures.draw(found)["sweep"]
    left, right = figure.axes
    assert left.get_xlabel() == "vfd_lambda" and len(figure.axes) == 2
    (line,) = (container.lines[0] for container in left.containers)
    assert list(line.get_xdata()) == [0, 0.01, 0.02, 0.04]
    clean = [row.cells["clean"].mean for row in found.rows]
    assert list(line.get_ydata()) == pytest.approx(clean)
    (line,) = (container.lines[0] for container in right.containers)
    assert line.get_ydata()[0] == found.rows[0].cells["autoattack"].mean


def test_a_sweep_of_names_and_one_of_several_rows(tmp_path):
    layers = summarized(suites.sweep(tmp_path, "vfd_layer", ("layer1", "layer4", "logits")))
    _, figure = figures.draw(layers)["sweep"]
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == ["layer1", "layer4", "logits"]
    rows = {f"TRADES{d}": [(80, 50), (85, 45)] for d in ("", "+VFD-Adv")}
    several = summarized(suites.sweep(tmp_path, "trades_beta", ("1", "6"), rows))
    clean, robust = figures.draw(several)["sweep"][1].axes
    assert len(clean.containers) == len(robust.containers) == 2
    plot = figures.draw(several)["trade-off-autoattack"][1].axes[0]
    assert [text.get_text() for text in plot.texts] == ["1", "6", "1", "6"]


def test_the_trade_off_shows_both_accuracies_on_the_same_images(half):
    found = summarized(half)
    plot = figures.draw(found)["trade-off-autoattack"][1].axes[0]
    few = suites.measured("TRADES", 80, 1)[20]
    place = [100 * few[column].mean() for column in ("clean", "autoattack")]
    places = [tuple(c.lines[0].get_xydata()[0]) for c in plot.containers]
    assert pytest.approx(tuple(place)) in places
    assert plot.get_title() == "TRADES"


def pictures(workdir, **changes):
    """Files of features and of examples as the mode `features` writes them."""
    random, count = np.random.default_rng(0), 20
    names = np.array(["Vanilla", "TRADES+VFD-Adv"])
    known = {"embedding": random.normal(size=(2, 2 * count, 2)).astype("float32"),
             "labels": np.arange(count) % 5, "adversarial": np.arange(2 * count) >= count,
             "names": names, "accuracy": np.full((2, 2), 75.0)}  # fmt: skip
    np.savez(workdir / "features.npz", **{**known, **changes})
    x = random.uniform(size=(3, 8, 8, 3)).astype("float32")
    adversarial = np.stack([x + 0.02, x - 0.02])
    np.savez(workdir / "examples.npz", clean=x, adversarial=adversarial, names=names,
             labels=np.arange(3), predictions_adversarial=np.array([[0, 1, 0], [0, 1, 2]]),
             class_names=np.array(["cat", "dog", "ship"]))  # fmt: skip


def test_features_and_examples_are_shown_where_there_are_any(tmp_path):
    workdir = suites.table(tmp_path, 40, groups=())
    rewrite(workdir / "suite.json", kind="features", entries=[], columns=[], images={})
    assert section.section(str(workdir), str(tmp_path)).figures == {}
    pictures(workdir)
    found = section.section(str(workdir), str(tmp_path))
    assert list(found.figures) == ["features", "examples"] and not found.problems
    plots = found.figures["features"][1].axes
    assert [plot.get_title() for plot in plots[:2]] == ["Vanilla", "TRADES+VFD-Adv"]
    assert plots[2].get_ylabel() == "adversarial"
    assert sum(len(c.get_offsets()) for c in plots[0].collections) == 20
    titles = [plot.get_title() for plot in found.figures["examples"][1].axes]
    assert titles[:3] == ["cat", "dog", "ship"] and titles[6:9] == ["cat", "dog", "cat"]
    build.build([str(workdir)], str(workdir / "report"))


def test_damaged_pictures_are_a_sentence(tmp_path):
    workdir = suites.table(tmp_path, 40, groups=())
    pictures(workdir, embedding=np.zeros((2, 7, 2)))
    (workdir / "examples.npz").write_bytes(b"PK")
    found = section.section(str(workdir), str(tmp_path))
    assert "features" not in found.figures and len(found.problems) == 2
    assert "its embedding has the shape (2, 7, 2)" in found.problems[0]


def test_two_suites_of_one_name_have_files_of_their_own(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    workdirs = [str(suites.table(tmp_path / name, 40, groups=())) for name in "ab"]
    build.build([*workdirs, workdirs[0]], str(tmp_path / "report"))
    files = {str(path) for path in everything(tmp_path / "report")}
    assert {"tables/table1.csv", "tables/table1-2.csv"} <= files
    assert "tables/table1-3.csv" not in files
