"""The benchmarks run and count rightly; no test looks at a time."""

import io
import json
import pathlib
import re
from collections import Counter

import keras
import numpy as np
import pytest

from benchmarks import (
    attacks,
    chaos,
    checkpoint,
    evaluation,
    feature_distance,
    machine,
    memory,
    pipeline,
    pytorch_trades,
    scaling,
    step,
    suite,
    timing,
    worker,
)
from vfd_tf.training.methods import METHODS

PAIRS = [f"{method}+vfd" for method in METHODS] + ["trades", "hat"]
TINY = ["--arch=resnet8", "--width=0.1", "--batch_size=4"]
FORWARD, TO_INPUTS, TO_WEIGHTS = "Conv2D", "Conv2DBackpropInput", "Conv2DBackpropFilter"
# The clean accuracy in the log of PGD-AT, which no term needs: not in the floor.
REPORTED = {"pgd-at": 1}


def needed(function):
    """Nodes of a function that its results or its side effects ask for."""
    nodes = {node.name: node for node in function.node_def}
    ahead = [*function.ret.values(), *function.control_ret.values()]
    seen = set()
    while ahead:
        name = ahead.pop().lstrip("^").split(":")[0]
        if name in nodes and name not in seen:
            seen.add(name)
            ahead.extend(nodes[name].input)
    return [nodes[name] for name in seen]


def convolutions(concrete, steps) -> Counter:
    """Convolution kernels that one run of a function executes, its loop `steps` times."""
    functions = concrete.graph.as_graph_def().library.function
    library = {function.signature.name: function for function in functions}

    def count(function):
        total = Counter()
        for node in needed(function):
            if node.op in (FORWARD, TO_INPUTS, TO_WEIGHTS):
                total[node.op] += 1
            elif "While" in node.op:
                for kind, number in count(library[node.attr["body"].func.name]).items():
                    total[kind] += steps * number
            elif "PartitionedCall" in node.op:
                total += count(library[node.attr["f"].func.name])
        return total

    return count(concrete.function_def)


def assert_units_are_the_kernels(pair, steps=3):
    student, teacher = (step.network("resnet8", 0.1) for _ in range(2))
    trainer = step.trainer_of(pair, steps, student, teacher)
    dispatch = trainer.make_train_function()
    concrete = dispatch.one_step.get_concrete_function(step.batch(4))
    layers = sum(isinstance(layer, keras.layers.Conv2D) for layer in student.layers)
    counts = convolutions(concrete, steps)
    # A training pass has no use for the gradient of its images: one kernel less.
    passes = counts[TO_WEIGHTS] / layers
    units = (sum(counts.values()) + passes) / layers
    assert units - REPORTED.get(pair, 0) == step.units(pair, steps)


def test_the_units_of_a_training_pass_are_the_kernels_of_its_graph():
    assert_units_are_the_kernels("natural+vfd")


@pytest.mark.slow
@pytest.mark.parametrize("pair", PAIRS)
def test_the_units_of_every_method_are_the_kernels_of_its_graph(pair):
    assert_units_are_the_kernels(pair)


def test_the_units_of_ten_steps_are_those_of_the_readme():
    readme = (worker.ROOT / "benchmarks/README.md").read_text()
    table = re.findall(r"^\| ([a-z-]+) +\|.*?(\d+) \| +(\d+) \| ([\d.]+) \|$", readme, re.M)
    assert [row[0] for row in table] == list(METHODS)[:2] + ["alp", "trades", "mart", "hat"]
    for method, floor, with_vfd, ratio in table:
        assert step.units(method, 10) == int(floor)
        assert step.units(f"{method}+vfd", 10) == int(with_vfd)
        assert f"{int(with_vfd) / int(floor):.2f}" == ratio


def test_an_unknown_pair_is_refused():
    with pytest.raises(SystemExit, match="Unknown pair 'trades\\+kd'"):
        step.parse(["--pairs=trades,trades+kd"])


def test_every_function_is_called_once_a_repeat_in_changing_order():
    calls = []
    functions = {name: lambda name=name: calls.append(name) or 1.0 for name in "abc"}
    seconds = timing.interleave(functions, repeats=20)
    assert seconds == dict.fromkeys("abc", [1.0] * 20)
    repeats = ["".join(calls[i : i + 3]) for i in range(0, 60, 3)]
    assert {"".join(sorted(repeat)) for repeat in repeats} == {"abc"}
    assert len(set(repeats)) > 1


def test_ratios_are_medians_of_pairs():
    # A disturbed repeat slows both sides down and leaves their ratio.
    assert timing.ratio([2.0, 20.0, 4.0], [1.0, 10.0, 2.0]) == 2
    assert timing.milliseconds([0.001, 0.003, 0.2]) == pytest.approx(3)
    assert timing.spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


def test_the_slope_is_that_of_the_second_half():
    log = [(n, 500.0 - n) for n in (50, 100)] + [(n, 3 + 0.02 * n) for n in (150, 200)]
    assert memory.slope(log) == pytest.approx(20)


def test_the_header_names_machine_and_command():
    text = machine.header(machine.command("step", ["--pairs=a b"]), {"GPU": "none"})
    assert re.match(r"- machine: .+, \d+ cores, .+\n- load: \d", text)
    assert "- GPU: none\n- command: `python -m benchmarks.step '--pairs=a b'`\n" in text


def test_a_worker_times_as_often_as_it_is_asked(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr("sys.stdin", io.StringIO("run\nrun\nrun\n"))
    worker.serve({"weights": 7}, lambda: calls.append(1) or 0.5)
    facts, *seconds = capsys.readouterr().out.splitlines()
    assert json.loads(facts) == {"weights": 7}
    assert len(calls) == 2 + len(seconds) == 5
    assert all(float(value) >= 0 for value in seconds)


def test_every_command_of_the_readme_parses():
    readme = (pathlib.Path(worker.ROOT) / "benchmarks/README.md").read_text()
    commands = re.findall(r"^python -m benchmarks\.(\w+)(.*?)(?:\s+#.*)?$", readme, re.M)
    modules = {
        "step": step,
        "pipeline": pipeline,
        "memory": memory,
        "pytorch_trades": pytorch_trades,
        "feature_distance": feature_distance,
        "attacks": attacks,
        "chaos": chaos,
        "checkpoint": checkpoint,
        "evaluation": evaluation,
        "scaling": scaling,
        "suite": suite,
    }
    assert {name for name, _ in commands} == set(modules)
    for name, flags in commands:
        modules[name].parse(flags.split())


def test_what_a_checkpoint_costs(capsys):
    checkpoint.main(["--arch=resnet8", "--width=0.25", "--batch_size=4", "--steps=12"])
    rows = dict(rows_of(capsys.readouterr().out))
    assert len(rows) == 6 and rows["of the time"].endswith("%")
    assert 0 < float(rows["training waits for one (ms, mean)"]) < 10_000
    assert float(rows["size of a checkpoint (MB)"]) > 0


def rows_of(text) -> list[list[str]]:
    """Cells of the table rows, without header and rule."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_pipeline_table(capsys):
    flags = ["--images=64", "--batch_size=8", "--batches=3", "--repeats=2", "--step_ms=9"]
    pipeline.main(flags)
    names, rates, *_, shares = zip(*rows_of(capsys.readouterr().out), strict=True)
    assert names == ("train_batches (crop, flip)", "batches")
    assert all(float(rate.replace(",", "")) > 0 for rate in rates)
    assert all(share.endswith("%") for share in shares)


@pytest.mark.slow
def test_the_pipeline_table_of_photographs(capsys):
    flags = ["--image_size=32", "--images=160", "--batch_size=4", "--batches=2"]
    pipeline.main([*flags, "--repeats=2"])
    names, rates, *_ = zip(*rows_of(capsys.readouterr().out), strict=True)
    sources = ("memory", "JPEG files", "array records")
    own = tuple(f"train_batches, {source}" for source in sources)
    assert names == (*own, "image_dataset_from_directory")
    assert all(float(rate.replace(",", "")) > 0 for rate in rates)


@pytest.mark.slow
def test_the_step_table(capsys):
    step.main([*TINY, "--pairs=natural,natural+vfd,hat", "--steps=1", "--repeats=2"])
    rows = rows_of(capsys.readouterr().out)
    assert [row[:3] for row in rows] == [
        ["natural", "float32", "3"],
        ["natural+vfd", "float32", "4"],
        ["hat", "float32", "13"],
    ]
    for pair, _, _, forward, milliseconds, _, ratio, overhead, speed in rows:
        assert min(float(forward), float(milliseconds), float(ratio)) > 0
        assert bool(overhead) == (pair == "natural+vfd") and not speed


def test_precisions_are_compared_with_float32(capsys):
    flags = ["--pairs=natural", "--precision=float32,mixed_bfloat16", "--repeats=2"]
    step.main([*TINY, *flags])
    full, half = rows_of(capsys.readouterr().out)
    assert (full[1], full[-1], half[1]) == ("float32", "", "mixed_bfloat16")
    assert float(half[-1]) > 0


@pytest.mark.slow
def test_the_memory_tables(capsys):
    flags = ["--attack_steps=1", "--images=64", "--steps=8", "--every=1", "--epoch=4"]
    memory.main([*TINY, *flags])
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows[:8]] == [str(n) for n in range(1, 9)]
    assert rows[-1][0] == "peak"
    assert float(rows[-1][1].split()[0]) >= max(float(row[1]) for row in rows[:8])


def test_the_adversary_in_pytorch_climbs_inside_the_ball():
    torch = pytest.importorskip("torch")
    from benchmarks import pytorch_worker

    torch.manual_seed(0)
    model, x = pytorch_worker.ResNet18(0.1).eval(), torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        target = torch.softmax(model(x), 1)
    for tuned in (False, True):
        x_adv = pytorch_worker.adversary(model, x, 5, tuned)
        assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6
        assert x_adv.min() >= 0 and x_adv.max() <= 1
        near = x + 0.001 * torch.randn_like(x)
        with torch.no_grad():
            climbed, start = (
                pytorch_worker.divergence(model, images, target, "sum")
                for images in (x_adv, near)
            )
        assert climbed > 2 * start


@pytest.mark.slow
def test_the_pytorch_table(capsys):
    pytest.importorskip("torch")
    flags = ["--width=0.1", "--batch_size=4", "--steps=1", "--repeats=2", "--pause=0"]
    pytorch_trades.main(flags)
    rows = rows_of(capsys.readouterr().out)
    expected = ["vfd_tf", "9"], ["PyTorch released", "12"], ["PyTorch tuned", "9"]
    assert [row[:2] for row in rows] == list(expected)
    assert all(float(row[2]) > 0 for row in rows)
    assert all(float(row[4]) > 0 for row in rows[1:])


@pytest.mark.slow
@pytest.mark.parametrize("attack", ["pgd", "cw"])
def test_the_table_of_attacks(attack, capsys):
    peers = "cleverhans" if attack == "pgd" else ""
    flags = ["--width=0.1", "--batch_size=4", "--steps=1", "--repeats=2", "--pause=0"]
    attacks.main([*flags, f"--attack={attack}", f"--peers={peers}"])
    ours, *others = rows_of(capsys.readouterr().out)
    assert ours[0] == "vfd_tf" and float(ours[1]) > 0 and ours[4] == ""
    assert [row[0] for row in others] == [peers] * bool(peers)
    assert all(float(row[4]) > 0 for row in others)


@pytest.mark.slow
def test_the_table_of_an_evaluation(capsys):
    flags = ["--width=0.1", "--images=12", "--batch_size=8", "--repeats=2"]
    evaluation.main([*flags, "--attack=pgd2", "--craft_precision=mixed_bfloat16"])
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == ["early stop", "to the end", "mixed_bfloat16"]
    assert [row[-1] for row in rows[:2]] == ["0", "0"]


@pytest.mark.slow
def test_the_table_of_a_suite(capsys):
    suite.main(["--runs=1", "--commands=2", "--points=100"])
    rows = rows_of(capsys.readouterr().out)
    assert [row[0] for row in rows] == [
        "forecast of all suites",
        "a command of 2",
        "report of 36 runs",
        "t-SNE of 100 points",
    ]


def test_a_network_has_no_distance_from_itself():
    student = step.network("resnet8", 0.2)
    x = np.random.RandomState(0).uniform(size=(8, 32, 32, 3)).astype("float32")
    y = np.zeros(8, "int32")
    found = feature_distance.distances(student, student, x, y, 0.0)
    assert [*found] == [
        *("layer1", "layer1_preact", "layer2", "layer2_preact"),
        *("layer3", "layer3_preact", "logits"),
    ]
    for clean, adversarial, norm in found.values():
        assert clean == adversarial == pytest.approx(1e-6, abs=1e-6) and norm > 0.01
    # Against the norms that NumPy computes.
    outputs = student(x, training=False)
    for layer, (*_, norm) in found.items():
        flat = np.asarray(outputs[layer]).reshape(8, -1)
        assert norm == pytest.approx(np.linalg.norm(flat, axis=-1).mean(), rel=1e-4)
