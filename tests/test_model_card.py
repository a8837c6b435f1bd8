"""The model card of a run: its numbers, its warnings, its Markdown."""

import json
import os
import re
import subprocess
import sys

import keras
import numpy as np
import pytest
import tiny

from vfd_tf import files
from vfd_tf.experiments import card_results, model_card
from vfd_tf.experiments.record import Record
from vfd_tf.experiments.run_directory import RunDirectory
from vfd_tf.hyperparameters import InputError

IDENTITY = {
    **{"dataset": "cifar10", "arch": "resnet8", "width": 1.0, "normalize": True},
    **{"seed": 3, "data": "ef0f12ab", "helpers": {"teacher": "1234abcd"}},
    **{"method": "TRADES(beta=4.0)", "distillation": "VFD()", "attack": "PGD()"},
    "recipe": "Recipe(epochs=5)",
}
FIELDS = {
    "method": {"beta": 4.0, "start_noise": 0.001},
    "distillation": {"lambda_": 0.01},
    "recipe": {"epochs": 5, "batch_size": 128, "learning_rate": 0.1, "momentum": 0.8},
    "attack": {"epsilon": 8 / 255, "norm": "linf", "steps": 10},
}
THREAT, COUNT = "linf:8/255", "n=400"


def right(count, of=400):
    """The first `count` of the images are right."""
    return np.arange(of) < count


def run(path, verdicts=None, identity=IDENTITY, fields=FIELDS, complete=True):
    """A run directory as a run leaves it; `verdicts`: student -> column -> bool [400]."""
    directory = RunDirectory(str(path))
    directory.claim(identity, fields, "--validation=777\n--epochs=5\n")
    history = [{"epoch": e, "val_pgd10_accuracy": e / 20, "loss": 1.5} for e in (1, 2)]
    directory.write_history(history)
    for student, columns in (verdicts or {}).items():
        directory.add_verdicts(student, THREAT, COUNT, columns)
    facts = {"vfd_tf": "9.9.9", "git_commit": "c0ffee", "best_epoch": 1, "replicas": 1}
    facts |= {"wall_time_s": 600.0} if complete else {}
    directory._merge(**facts)
    return directory


USUAL = {
    "best": {"clean": right(320), "fgsm": right(240), "pgd20": right(200)},
    "last": {"clean": right(324), "fgsm": right(240), "pgd20": right(198)},
}


def card(directory):
    with open(model_card.write(directory), encoding="utf-8") as file:
        return file.read()


def rows(text):
    """The cells of all tables, row by row."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def warnings_of(text):
    part = text.split("## Warnings\n")[1].split("\n## ")[0]
    return [line[2:] for line in part.splitlines() if line.startswith("- ")]


def test_it_says_what_the_files_say(tmp_path):
    text = card(run(tmp_path / "run", USUAL))
    found = rows(text)
    for row in (
        ["architecture", "resnet8"],
        ["digest of the training images", "ef0f12ab"],
        ["images held out of training", "777"],
        ["teacher, run or file", "1234abcd"],
        ["epochs", "2 of 5"],
        ["epoch of best.keras", "1"],
        ["seed", "3"],
        ["wall time", "10.0 minutes"],
        ["git\\_commit", "c0ffee"],
        ["epsilon", "8/255"],
        ["method", "beta", "4"],
        ["recipe", "momentum", "0.8"],
        ["recipe", "epochs", "5"],
        ["val\\_pgd10\\_accuracy", "0.05", "0.1"],
        ["test images evaluated", "400"],
    ):
        assert row in found, row
    assert ["recipe", "learning\\_rate", "0.1"] in found  # named whatever it is
    assert not any(row[:2] == ["method", "start\\_noise"] for row in found)  # a default
    assert "# trades+vfd on cifar10\n" in text


def test_intervals_are_wilsons(tmp_path):
    """Wilson 1927, by hand, with z = 1.959964."""
    found = rows(card(run(tmp_path / "run", USUAL)))
    z, n, p = 1.959964, 400, 0.5
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    interval = f"{100 * (middle - half):.2f} to {100 * (middle + half):.2f}"
    assert ["best", "pgd20", "50.00", interval, "200"] in found
    assert [row[:2] for row in found if row[0] == "last"] == [
        ["last", name] for name in ("clean", "fgsm", "pgd20", "worst")
    ]


def test_an_attack_without_a_radius_is_in_no_worst(tmp_path):
    verdicts = {s: {**columns, "cw": right(0)} for s, columns in USUAL.items()}
    text = card(run(tmp_path / "run", verdicts))
    worst = {row[0]: row[2] for row in rows(text) if len(row) == 5 and row[1] == "worst"}
    assert worst == {"best": "50.00", "last": "49.50"}
    assert "verdicts.npz" not in " ".join(warnings_of(text))


def test_every_number_of_the_results_is_in_the_files(tmp_path):
    directory = run(tmp_path / "run", USUAL)
    known = directory.results["accuracies"]
    for student, name, accuracy, _, count in (
        r for r in rows(card(directory)) if len(r) == 5
    ):
        if student in known:
            percent = known[student][f"{THREAT} {COUNT}"][name]
            assert accuracy == f"{percent:.2f}" and int(count) == percent * 4


def test_the_same_files_give_the_same_card(tmp_path):
    directory = run(tmp_path / "run", USUAL)
    before = {n: files.sha256(directory.file(n)) for n in os.listdir(directory.path)}
    first, key = card(directory), directory.key
    assert card(directory) == first and directory.key == key
    assert (
        before.items()
        <= {n: files.sha256(directory.file(n)) for n in os.listdir(directory.path)}.items()
    )
    assert set(os.listdir(directory.path)) - set(before) == {"README.md"}
    directory.add_verdicts("best", THREAT, COUNT, {"autoattack": right(180)})
    assert "autoattack |" in card(directory) and card(directory) != first


def test_files_stand_with_their_hashes(tmp_path):
    directory = run(tmp_path / "run", USUAL)
    (tmp_path / "run" / "lock.json").write_text("{}")
    (tmp_path / "run" / "best.keras.part").write_text("half")
    card(directory)
    found = [row for row in rows(card(directory)) if re.fullmatch("[0-9a-f]{64}", row[1])]
    names = {row[0].replace("\\", "") for row in found}
    assert names == {
        *("flags.txt", "history.csv", "metrics.jsonl", "results.json", "run.json"),
        "verdicts.npz",
    }
    for name, digest, size in found:
        path = directory.file(name.replace("\\", ""))
        assert digest == files.sha256(path) and size == f"{os.path.getsize(path):,}"


def test_a_run_of_few_images_without_evaluation_has_a_card(tmp_path):
    text = card(run(tmp_path / "run", complete=False))
    assert "There are no test accuracies yet." in text
    assert warnings_of(text) == [
        "The training is not complete: these are the numbers so far."
    ]


def test_a_natural_run_has_no_attack(tmp_path):
    identity = {**IDENTITY, "method": "Natural()", "distillation": "NoDistillation()"}
    fields = {"method": {}, "distillation": {}, "recipe": FIELDS["recipe"]}
    text = card(run(tmp_path / "run", USUAL, identity, fields))
    assert "Trained without an attack." in text and "clean images alone" in text


def changed(**columns):
    best = {**USUAL["best"], **columns}
    return {"best": best, "last": {**USUAL["last"], **columns}}


@pytest.mark.parametrize(
    "verdicts, words",
    [
        (USUAL, ["Without AutoAttack"]),
        (changed(autoattack=right(180)), []),
        ({"best": {"clean": right(9)}}, ["only clean accuracies"]),
        (
            {**changed(autoattack=right(180)), "average": USUAL["best"]},
            ["Without AutoAttack.*400 test images, average"],
        ),
        (
            changed(autoattack=right(180), fgsm=right(190)),
            ["best, .*fgsm leaves 47.50 .*50.00 %.* of pgd20.*masked", "last.*masked"],
        ),
        (
            changed(autoattack=right(180), square=right(170)),
            ["best.*square.*pgd20", "best.*square.*autoattack"] + ["last.*square"] * 2,
        ),
    ],
)
def test_doubtful_numbers_are_named(tmp_path, verdicts, words):
    found = warnings_of(card(run(tmp_path / "run", verdicts)))
    assert len(found) == len(words)
    for text, pattern in zip(found, words, strict=True):
        assert re.search(pattern, text.replace("\\", ""))


def test_robust_overfitting_is_told_from_chance(tmp_path):
    """30 images of 400 lost and none won are more than two standard errors."""
    known = changed(autoattack=right(180))
    known["last"]["autoattack"] = right(150)
    text = card(run(tmp_path / "run", known)).replace("\\", "")
    d = np.r_[np.ones(30), np.zeros(370)]
    error = 100 * d.std() / 20
    assert "best has 45.00 % and last 37.50 %, 7.50 points less" in text
    assert f"difference {error:.2f})" in text
    known["last"]["autoattack"] = right(198) & ~right(20)  # 20 lost, 18 won
    assert "Robust overfitting" not in card(run(tmp_path / "other", known))


def test_numbers_that_contradict_each_other_are_named(tmp_path):
    directory = run(tmp_path / "run", changed(autoattack=right(180)))
    known = directory.results["accuracies"]
    known["best"][f"{THREAT} {COUNT}"]["autoattack"] = 55.0
    directory._merge(accuracies=known)
    found = [w.replace("\\", "") for w in warnings_of(card(directory))]
    assert any("55.00 %" in w and "45.00 %" in w for w in found)


def test_another_norm_than_the_trainings_is_named(tmp_path):
    directory = run(tmp_path / "run", changed(autoattack=right(180)))
    directory.add_verdicts(
        "best", "l2:0.5", COUNT, {"clean": right(9), "autoattack": right(3)}
    )
    assert any("no robustness to another" in w for w in warnings_of(card(directory)))


NASTY = "a|b*c_d`e<script>[x](http://y)#\nz\\ {{ 7*7 }} {% raw %} $q$ &amp; ~~s~~ @all"


def test_names_of_users_are_escaped(tmp_path):
    """Every special character has its backslash, and no line begins anew."""
    identity = {**IDENTITY, "dataset": f"npz:{NASTY}", "arch": NASTY}
    text = card(run(tmp_path / "run", USUAL, identity))
    (row,) = (row for row in rows(text) if row[0] == "architecture")
    plain = re.sub(r"\\(.)", r"\1", row[1])
    assert plain == NASTY.replace("\n", " ")
    assert not re.search(r"(?<!\\)[|*_`<\[\]{}#$&~@]", re.sub(r"\\\\", "", row[1]))
    assert text.count("\n# ") + text.startswith("# ") == 1 and "<script>" not in text
    assert len({len(r) for r in rows(text.split("## Data")[0])}) == 1


def test_a_fence_holds_what_is_in_it(tmp_path):
    folder = tmp_path / "a ```` b"
    folder.mkdir()
    text = card(run(folder / "run", USUAL))
    assert "\n`````sh\npython run.py " in text


def test_it_is_read_as_markdown(tmp_path):
    markdown = pytest.importorskip("markdown_it")
    identity = {**IDENTITY, "arch": NASTY}
    text = card(run(tmp_path / "run", USUAL, identity))
    html = markdown.MarkdownIt("commonmark").enable("table").render(text)
    assert html.count("<h1>") == 1 and html.count("<h2>") == 9
    assert html.count("<table>") == len(re.findall(r"^\| -", text, re.M))
    assert "<script>" not in html and "href" not in html


def test_the_student_and_its_three_lines(tmp_path):
    """Weights, images and classes of a real file, and lines that run as they stand."""
    directory = run(tmp_path / "run", USUAL)
    model = tiny.model(keras.layers.Conv2D(2, 3, name="layer1"))
    model.save(directory.student("best"))
    text = card(directory)
    for row in (["weights", "47"], ["images", "4 x 4 x 1"], ["classes", "3"]):
        assert row in rows(text)
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) == 3 and 'epsilon=8/255, norm="linf"' in code
    code = code.replace("best.keras", directory.student("best")).replace(
        '["pgd20", "autoattack"]', '["fgsm"]'
    )
    data = tiny.arrays()
    x, y = data["x_test"] / np.float32(255), data["y_test"]
    exec(code, {"x": x, "y": y})


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="neither a run directory"):
        model_card.write(RunDirectory(str(tmp_path)))
    directory = run(tmp_path / "run", USUAL)
    (tmp_path / "run" / "history.csv").write_text("epoch,loss\n1,many\n")
    with pytest.raises(InputError, match="damaged"):
        model_card.write(directory)
    assert not os.path.exists(directory.file("README.md"))


def test_a_strangers_numbers_are_shown_or_refused(tmp_path):
    fields = {**FIELDS, "method": {"beta": float("inf")}}
    assert "inf" in card(run(tmp_path / "run", USUAL, fields=fields))
    fields = {**FIELDS, "attack": {"epsilon": "wide", "norm": "linf"}}
    with pytest.raises(InputError, match="damaged"):
        card(run(tmp_path / "other", USUAL, fields=fields))


def test_the_hardest_column_is_shared():
    rows = {"best": {"clean": 9.0, "a": 3.0, "b": 2.0}, "last": {"clean": 8.0, "a": 4.0}}
    found = card_results.Evaluation("linf:0.1", 10, rows, {})
    assert found.hardest == "a"


def test_a_real_run_has_a_card(tmp_path):
    tiny.written(tmp_path)
    assert tiny.train(tmp_path) == 0
    directory = RunDirectory(str(tmp_path / "run"))
    text = card(directory)
    assert Record(directory.path).command in text
    assert json.loads((tmp_path / "run" / "results.json").read_text())["test_data"] in text
    assert tiny.train(tmp_path) == 0  # the run is found, whatever stands beside it


def test_a_record_alone_knows_the_defaults_of_a_recipe(tmp_path):
    """In a process that has imported nothing else."""
    identity = {"dataset": "digits", "helpers": {}, "recipe": "Recipe(epochs=3)"}
    owner = {"identity": identity, "fields": {"recipe": {"epochs": 3}}}
    (tmp_path / "run.json").write_text(json.dumps(owner))
    code = "from vfd_tf.experiments.record import Record; import sys; "
    code += "print(Record(sys.argv[1]).parameters('recipe')['batch_size'])"
    words = sys.executable, "-c", code, str(tmp_path)
    said = subprocess.run(words, capture_output=True, text=True)
    assert said.stdout.splitlines()[-1:] == ["128"], said.stderr
