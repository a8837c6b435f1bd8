"""The accuracy-robustness plot: series, the line they are held against, and refusals."""

import json
import math
import re
import shlex

import pytest

from vfd_tf.cli import main
from vfd_tf.cli import plot as plot_mode

RECIPE = {"epochs": 5, "lr_milestones": [100, 105]}
ATTACK = {"epsilon": 8 / 255, "norm": "linf", "steps": 10}
KEY = "linf:8/255 n=10000"


def run(root, method, accuracies, distillation="NoDistillation()", key=KEY, **options):
    """A run directory as a finished run leaves it, as far as the plot reads it."""
    fields = {
        "method": options.pop("method_fields", {}),
        "distillation": options.pop("distillation_fields", {}),
        "recipe": RECIPE,
        "attack": ATTACK,
    }
    identity = {
        **{"dataset": "cifar10", "arch": "resnet8", "width": 1.0, "normalize": True},
        **{"seed": 0, "data": "ef0f", "helpers": {}, "recipe": "Recipe()"},
        **{"method": method, "distillation": distillation, "attack": "PGD()"},
        **options,
    }
    path = root / f"run{len(list(root.iterdir()))}"
    path.mkdir()
    owner = {"identity": identity, "fields": fields}
    (path / "run.json").write_text(json.dumps(owner))
    known = {student: {key: accuracies} for student in ("best", "last")}
    results = {"accuracies": known, "wall_time_s": 1.0}
    (path / "results.json").write_text(json.dumps(results))
    return path


def trades(root, beta, clean, worst, **options):
    accuracies = {"clean": clean, "fgsm": worst + 5, "worst": worst}
    fields = {"beta": beta, "start_noise": 0.001}
    return run(root, f"TRADES(beta={beta})", accuracies, method_fields=fields, **options)


def vfd(root, lambda_, clean, worst):
    options = {"distillation": "VFD()", "distillation_fields": {"lambda_": lambda_}}
    return trades(root, 6.0, clean, worst, **options)


def plot(root, *words):
    out = f"--out={root / 'figure' / 'plot.png'}"
    return main.main(["run.py", "plot", *map(str, words), out])


def table(text):
    """{run: cells} of the Markdown table in a text."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert set("".join(rows[1])) == {"-", ":"}
    return {first: cells for first, *cells in (rows[0], *rows[2:])}


@pytest.fixture
def runs(tmp_path):
    """A natural run, TRADES at beta 6, 1, 2 and TRADES + VFD at four lambdas."""
    root = tmp_path / "runs"
    root.mkdir()
    natural = {"clean": 95.0, "fgsm": 10.0, "worst": 0.0}
    paths = [run(root, "Natural()", natural)]
    paths += [trades(root, 6.0, 80.0, 50.0), trades(root, 1.0, 88.0, 40.0)]
    paths += [trades(root, 2.0, 86.0, 44.0)]
    paths += [vfd(root, 0.05, 83.0, 48.0), vfd(root, 0.01, 87.0, 41.8)]
    paths += [vfd(root, 0.02, 81.0, 48.0), vfd(root, 0.2, 79.0, 52.0)]
    return paths


def test_points_are_held_against_the_line_of_the_method_alone(runs, tmp_path, capsys):
    assert plot(tmp_path, *runs) == 0
    text = capsys.readouterr().out
    assert "cifar10, 10,000 test images, linf:8/255, last student" in text
    error = f"{100 * math.sqrt(0.48 * 0.52 / 10000):.2f}"
    rows = table(text)
    # By hand: TRADES falls by 1 a point from (80, 50) to (86, 44), then by 2.
    assert rows["accuracy (%)"][:2] == ["clean", "worst"]
    assert rows["trades+vfd lambda 0.05"] == ["83.00", "48.00", error, "above: +1.00"]
    assert rows["trades+vfd lambda 0.02"] == ["81.00", "48.00", error, "below: -1.00"]
    assert rows["trades+vfd lambda 0.01"][-1] == "on: -0.20"
    assert rows["trades+vfd lambda 0.2"][-1] == "outside the range"
    assert rows["natural+none"] == ["95.00", "0.00", "0.00", ""]
    order = re.findall(r"(?:beta|lambda) [\d.]+", text)
    assert order == [f"beta {b}" for b in (1, 2, 6)] + [
        f"lambda {value}" for value in (0.01, 0.02, 0.05, 0.2)
    ]


@pytest.mark.parametrize(
    "x, y, verdict",
    [
        (70.0, 49.0, "below: -1.00"),  # left of the line, whose highest y is 50
        (70.0, 49.9, "on: -0.10"),
        (70.0, 50.1, "outside the range"),  # less clean, more robust: elsewhere
        (82.0, 49.0, "above: +1.00"),
        (86.0, 43.0, "below: -4.00"),  # 47 at 88 is more of both
        (89.0, 20.0, "outside the range"),
    ],
)
def test_a_point_is_below_a_line_that_has_more_of_both_anywhere(x, y, verdict):
    """TRADES by hand: from (80, 50) through (84, 46) and (86, 44) up to (88, 47)."""
    ends = ((6.0, 80.0, 50.0), (4.0, 84.0, 46.0), (2.0, 86.0, 44.0), (1.0, 88.0, 47.0))
    points = [
        plot_mode.Point("trades", "none", clean, worst, {("method", "beta"): beta})
        for beta, clean, worst in ends
    ]
    own = plot_mode.Point("trades", "vfd", x, y, {("distillation", "lambda_"): 0.1})
    text = plot_mode.table(plot_mode.group([*points, own]), ("clean", "worst"), 10000)
    assert table(text)["trades+vfd"][-1] == verdict


def test_mixtures_of_a_run_are_a_series_held_against_the_line(tmp_path, capsys):
    root = tmp_path / "runs"
    root.mkdir()
    one, other = trades(root, 6.0, 50.0, 30.0), trades(root, 1.0, 70.0, 10.0)
    for path, name, clean, worst in (
        (one, "last-mixture-0.8", 60.0, 25.0),
        (one, "last-weights-0.5", 65.0, 12.0),
        (one, "average-mixture-0.8", 99.0, 99.0),  # of another student
        (other, "last-mixture-0.9", 72.0, 5.0),
    ):
        results = json.loads((path / "results.json").read_text())
        columns = {"clean": clean, "fgsm": worst + 1, "worst": worst}
        results["accuracies"][name] = {KEY: columns}
        (path / "results.json").write_text(json.dumps(results))
    assert plot(tmp_path, one, other, "--plot_student=last") == 0
    cells = table(capsys.readouterr().out)
    verdicts = {name: row[-1] for name, row in cells.items()}
    # Two runs were mixed, and their names tell the series apart.
    assert verdicts[f"trades+none mixture of {one.name} share 0.8"] == "above: +5.00"
    assert verdicts[f"trades+none mixture of {other.name} share 0.9"] == "outside the range"
    assert verdicts["trades+none weights share 0.5"] == "below: -3.00"
    of_itself = cells[f"trades+none mixture of {one.name} share 1"][:2]
    assert of_itself == ["50.00", "30.00"]  # the student alone
    assert verdicts["trades+none beta 6"] == "" and "99.00" not in str(cells)


def mixed(path, row=None, **mixtures):
    """Gives a run, or its last student, other columns, and mixtures by name."""
    results = json.loads((path / "results.json").read_text())
    known = results["accuracies"]
    known["last"][KEY] = row or known["last"][KEY]
    known |= {f"last-{name}": {KEY: columns} for name, columns in mixtures.items()}
    (path / "results.json").write_text(json.dumps(results))
    return path


@pytest.mark.parametrize(
    "row, columns, fix",
    [
        # The run was later attacked by AutoAttack, too.
        ({"autoattack": 30.0}, {}, "--eval_attacks=fgsm,pgd20,autoattack"),
        ({}, {"autoattack": 30.0}, "--eval_attacks=fgsm,pgd20,autoattack"),
        ({"transfer-fgsm": 70.0}, {}, "choose another --plot_y, such as pgd20"),
    ],
)
def test_a_worst_case_over_other_attacks_is_no_point_of_a_mixture(
    row, columns, fix, tmp_path, capsys
):
    (tmp_path / "runs").mkdir()
    own = {"clean": 80.0, "fgsm": 50.0, "pgd20": 45.0}
    path = mixed(
        trades(tmp_path / "runs", 6.0, 80.0, 30.0),
        {**own, **row, "worst": 30.0},
        **{"mixture-0.8": {**own, **columns, "worst": 45.0}},
    )
    assert plot(tmp_path, path) == 0
    printed = capsys.readouterr()
    assert list(table(printed.out))[1:] == ["trades+none"]
    note = printed.err
    assert note.startswith("Skipped: last-mixture-0.8 of") and note.count("\n") == 1
    assert fix in note and ("--mixtures=0.8" in note) == ("transfer-fgsm" not in row)
    assert plot(tmp_path, path, "--plot_y=pgd20") == 0
    printed = capsys.readouterr()
    assert "trades+none mixture share 0.8" in table(printed.out) and not printed.err


@pytest.mark.parametrize("column", ["worst", "transfer-fgsm"])
def test_a_run_under_black_box_attacks_alone_names_a_column_to_add(
    column, tmp_path, capsys
):
    """Mixtures are never under black-box attacks, so that they have the clean one alone."""
    (tmp_path / "runs").mkdir()
    path = mixed(
        trades(tmp_path / "runs", 6.0, 80.0, 30.0),
        {"clean": 80.0, "transfer-pgd20": 75.0, "transfer-fgsm": 70.0, "worst": 69.0},
        **{"mixture-0.8": {"clean": 90.0}},
    )
    assert plot(tmp_path, path, f"--plot_y={column}") == 0
    note = capsys.readouterr().err
    assert note.startswith("Skipped: last-mixture-0.8 of") and note.count("\n") == 1
    assert "--eval_attacks=pgd20 " in note and "--plot_y=pgd20" in note


def test_a_mixture_without_the_column_is_named_with_the_command(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    row = {"clean": 80.0, "pgd20": 45.0}
    path = mixed(
        trades(tmp_path / "runs", 6.0, 80.0, 30.0), row, **{"nuts-0.9": {"clean": 85.0}}
    )
    assert plot(tmp_path, path, "--plot_y=pgd20") == 0
    note = capsys.readouterr().err
    assert "--eval_attacks=pgd20 --eval_students=last --mixtures=nuts:0.9." in note


def test_a_student_is_no_mixednuts_that_keeps_all_its_answers(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    points = {"nuts-0.9": {"clean": 85.0, "fgsm": 55.0, "worst": 40.0}}
    points["nuts-1"] = {"clean": 82.0, "fgsm": 55.0, "worst": 45.0}
    path = mixed(trades(tmp_path / "runs", 6.0, 80.0, 50.0), **points)
    assert plot(tmp_path, path) == 0
    rows = table(capsys.readouterr().out)
    assert [name for name in rows if "nuts" in name] == [
        "trades+none nuts share 0.9",
        "trades+none nuts share 1",
    ]
    assert rows["trades+none nuts share 1"][:2] == ["82.00", "45.00"]


def test_names_that_are_no_mixtures_are_passed_over(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    names = "mixture-x", "nuts-", "mixture-2", "nuts-0", "weights-nan", "mixture-0.80"
    row = {"clean": 99.0, "fgsm": 99.0, "worst": 99.0}
    path = mixed(trades(tmp_path / "runs", 6.0, 80.0, 50.0), **dict.fromkeys(names, row))
    assert plot(tmp_path, path) == 0
    assert list(table(capsys.readouterr().out))[1:] == ["trades+none"]


@pytest.mark.parametrize(
    ("name", "head"), [("a.png", b"\x89PNG"), ("a.pdf", b"%PDF"), ("a.svg", b"<?xml")]
)
def test_the_figure_has_the_format_of_its_name(runs, tmp_path, name, head):
    words = ["run.py", "--mode=plot", *map(str, runs), f"--out={tmp_path / name}"]
    assert main.main(words) == 0
    assert (tmp_path / name).read_bytes().startswith(head)


def test_the_drawing_says_which_point_is_which(runs, tmp_path):
    from matplotlib.figure import Figure

    points = [plot_mode.Point("trades", "none", x, 50.0, {("method", "beta"): b})
              for b, x in ((6.0, 70.0), (1.0, 90.0), (2.0, 80.0))]  # fmt: skip
    points.append(plot_mode.Point("natural", "none", 95.0, 0.0, {}))
    axes = Figure().subplots()
    for number, series in enumerate(plot_mode.group(points)):
        plot_mode._draw_series(axes, series, 100, number)
    line, natural = (container.lines[0] for container in axes.containers)
    assert list(line.get_xdata()) == [90, 80, 70] and line.get_linestyle() == "-"
    assert list(natural.get_xdata()) == [95] and natural.get_linestyle() == "None"
    assert [text.get_text() for text in axes.texts] == ["beta 1", "beta 2", "beta 6", ""]
    bars = axes.containers[0].lines[2]
    (low, high) = bars[1].get_segments()[0]
    assert high[1] - low[1] == pytest.approx(2 * 100 * math.sqrt(0.5 * 0.5 / 100))


def test_other_columns_and_students_by_their_names(runs, tmp_path, capsys):
    results = runs[1] / "results.json"
    known = json.loads(results.read_text())
    known["accuracies"]["average"] = {KEY: {"clean": 70.0, "mine": 30.0}}
    results.write_text(json.dumps(known))
    assert plot(tmp_path, runs[1], "--plot_y=mine", "--plot_student=average") == 0
    rows = table(capsys.readouterr().out)
    assert rows["trades+none"][:2] == ["70.00", "30.00"]
    assert plot(tmp_path, *runs, "--plot_x=fgsm", "--plot_student=best") == 0
    assert table(capsys.readouterr().out)["natural+none"][:2] == ["10.00", "0.00"]


def test_a_worst_case_that_one_attack_can_not_have_is_added_with_a_second(
    runs, tmp_path, capsys
):
    results = runs[1] / "results.json"
    known = json.loads(results.read_text())
    for columns, words in (
        (("clean", "cw", "cw_search"), "cw,cw_search,pgd20."),
        (("clean", "pgd20"), "pgd20,autoattack."),
    ):
        known["accuracies"]["average"] = {KEY: dict.fromkeys(columns, 40.0)}
        results.write_text(json.dumps(known))
        assert plot(tmp_path, runs[1], "--plot_student=average") == 2
        assert f"--eval_attacks={words}" in capsys.readouterr().err


def test_points_that_differ_in_several_things_carry_all(tmp_path, capsys):
    runs = tmp_path / "runs"
    runs.mkdir()
    paths = [trades(runs, 1.0, 80.0, 40.0), trades(runs, 6.0, 70.0, 50.0, seed=1)]
    # A field that is younger than a run counts with its default.
    owner = json.loads((paths[0] / "run.json").read_text())
    del owner["fields"]["method"]["start_noise"]
    (paths[0] / "run.json").write_text(json.dumps(owner))
    assert plot(tmp_path, *paths, paths[0]) == 0
    labels = list(table(capsys.readouterr().out))[1:]
    assert labels == ["trades+none beta 6, seed 1", "trades+none beta 1, seed 0"]


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        ((), {"dataset": "cifar100"}, "cifar10 and cifar100 can't share a plot"),
        ((), {"key": "linf:8/255 n=1000"}, "evaluated differently can't share a plot"),
        ((), {"key": "l2:0.5 n=10000"}, "l2:0.5 n=10000"),
        (("--plot_y=pgd50",), {}, "only clean, fgsm, worst; add it with python run.py"),
        (("--plot_y=mine",), {}, "only clean, fgsm, worst; choose one of these, or an"),
        (("--plot_y=pgd50",), {}, "--eval_attacks=pgd50"),
        (("--plot_student=averaged",), {}, "'averaged' (best, last)"),
        (("--max_images=10",), {}, "evaluated differently"),
    ],
)
def test_what_can_t_be_compared_is_refused(tmp_path, capsys, words, options, message):
    (tmp_path / "runs").mkdir()
    paths = [trades(tmp_path / "runs", 6.0, 80.0, 50.0)]
    paths.append(trades(tmp_path / "runs", 1.0, 85.0, 40.0, **options))
    assert plot(tmp_path, *paths, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1
    assert not (tmp_path / "figure").exists()


def test_what_is_broken_or_unfinished_is_skipped_with_a_note(runs, tmp_path, capsys):
    """A folder that isn't there, one that is no run, a damaged file, a run in training."""
    assert plot(tmp_path, *runs) == 0
    whole = capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    others = [run(tmp_path, "TRADES()", {"clean": 1.0}) for _ in range(3)]
    (others[0] / "run.json").write_text('{"identity": ')
    (others[1] / "run.json").write_text('{"identity": [], "fields": {}}')
    (others[2] / "results.json").unlink()
    odd = [tmp_path / "nowhere", tmp_path / "empty", *others]
    assert plot(tmp_path, odd[0], *runs, *odd[1:]) == 0
    printed = capsys.readouterr()
    assert printed.out == whole
    notes = printed.err.splitlines()
    assert all(
        note.startswith(f"Skipped: {path}") for note, path in zip(notes, odd, strict=True)
    )
    reasons = (
        "neither a run",
        "neither a run",
        "can't be read",
        "has no 'identity'",
        "no test accuracies",
    )
    for note, reason in zip(notes, reasons, strict=True):
        assert reason in note
    assert plot(tmp_path, *odd) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "nowhere" in error and error.count("\n") == 1


def test_attacks_of_other_threat_models_make_no_other_worst_case(tmp_path, capsys):
    row = {"clean": 80.0, "fgsm": 50.0, "pgd20": 45.0, "worst": 44.0}
    more = {**row, "cw": 0.0, "pgd5:epsilon=0.1": 20.0}
    paths = [
        run(tmp_path, f"TRADES(beta={beta})", its, method_fields={"beta": beta})
        for beta, its in ((1.0, row), (2.0, more))
    ]
    assert plot(tmp_path, *paths) == 0
    assert "44.00" in capsys.readouterr().out


def test_a_missing_worst_case_names_the_attacks_to_repeat(tmp_path, capsys):
    path = run(tmp_path, "TRADES()", {"clean": 80.0, "fgsm": 50.0, "pgd20": 45.0})
    assert plot(tmp_path, path) == 2
    error = capsys.readouterr().err
    assert "'worst'" in error and "--eval_attacks=fgsm,pgd20" in error
    assert f"--flagfile={path}/flags.txt" in error


def test_the_attacks_to_repeat_are_words_of_a_shell(tmp_path, capsys):
    (tmp_path / "my runs").mkdir()
    known = {"clean": 80.0, "fgsm": 50.0, "pgd20:restarts=2": 45.0}
    path = run(tmp_path / "my runs", "TRADES()", known)
    assert plot(tmp_path, path) == 2
    error = capsys.readouterr().err
    words = shlex.split(error[error.index("python run.py") :].rstrip(".\n"))
    assert f"--workdir={path}" in words
    assert words[-1] == "--eval_attacks=fgsm,pgd20:restarts=2"


def test_of_several_evaluations_the_largest_that_all_runs_have(tmp_path, capsys):
    runs = tmp_path / "runs"
    runs.mkdir()
    paths = [trades(runs, 6.0, 80.0, 50.0), trades(runs, 1.0, 85.0, 40.0)]
    for path in paths:
        results = json.loads((path / "results.json").read_text())
        more = results["accuracies"]["last"]
        more |= {"linf:8/255 n=500": {"clean": 1.0, "worst": 1.0}}
        more |= {"l2:0.5 n=10000": {"clean": 2.0, "worst": 2.0}}
        (path / "results.json").write_text(json.dumps(results))
    assert plot(tmp_path, *paths) == 2
    assert "--eval_norm and --eval_epsilon" in capsys.readouterr().err
    assert plot(tmp_path, *paths, "--eval_epsilon=8/255") == 0
    assert table(capsys.readouterr().out)["trades+none beta 6"][0] == "80.00"
    assert plot(tmp_path, *paths, "--eval_norm=l2") == 0
    assert table(capsys.readouterr().out)["trades+none beta 6"][0] == "2.00"
    assert plot(tmp_path, *paths, "--eval_norm=linf", "--max_images=500") == 0
    assert table(capsys.readouterr().out)["trades+none beta 6"][0] == "1.00"


def test_another_format_or_no_run_is_refused(runs, capsys):
    assert main.main(["run.py", "plot", str(runs[0]), "--out=a.bmp"]) == 2
    assert ".png, .pdf, .svg" in capsys.readouterr().err
    assert main.main(["run.py", "plot"]) == 2
    assert "Name the run directories" in capsys.readouterr().err


def test_runs_that_continue_others_have_a_place_in_the_plot(tmp_path, capsys):
    before = {"run": "03f2e1d5", "epoch": 5, "teacher_epochs": 5}
    paths = [trades(tmp_path, 6.0, 80.0, 50.0)]
    paths += [trades(tmp_path, 6.0, 81.0, 51.0, continues=before)]
    assert plot(tmp_path, *paths) == 0
    assert {cells[0] for cells in table(capsys.readouterr().out).values()} >= {"80.00"}
