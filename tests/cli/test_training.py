"""train and compare: what they print, the folders that they write to, and what ends them early."""

import json
import math
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from launching import MLP
from programs import finish, is_empty, start, wait_until

from wtref.cli.main import main
from wtref.device import open_device
from wtref.fast import ops as kernels
from wtref.runs import compare
from wtref.runs.experiments import DIGITS
from wtref.runs.run import Run
from wtref.text import counted
from wtref.training import Training


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


@pytest.mark.parametrize("name", ["a/b", "../x", "..", ".", ".a", "/tmp/x", "a b", ""])
@pytest.mark.parametrize("flag", ["--log-name", "--log_name"])
def test_a_log_name_that_is_no_plain_name(refused, flag, name):
    assert repr(name) in refused(*MLP, f"{flag}={name}")


@pytest.mark.parametrize("flags", [MLP, [*MLP, "--rule", "kp"]])
def test_a_log_name_that_is_taken(refused, mine, flags):
    said = refused(*flags, "--log-name", "mine")
    assert "mine" in said and "--resume mine" in said and "--log-name" in said


def test_an_unknown_run(refused, mine):
    for argv in (["--resume", "yours"], ["train", "--resume", "yours", *MLP], ["eval", "yours"]):
        said = refused(*argv)
        assert "'yours'" in said and "there are: mine" in said


def test_resuming_nothing(refused):
    """What a shell makes of --resume "$NAME" when NAME is not set."""
    refused("train", "--resume", "", *MLP)


def test_resuming_with_other_flags_names_each_difference(refused, mine):
    flags = "--epochs 9 --rule kp --hidden 8 9 --batch_size 32 --nesterov"
    said = refused("--resume", "mine", *flags.split())
    for part in ("mine", "--epochs is 1, not 9", "--rule is bp, not kp", "--hidden", "--nesterov"):
        assert part in said
    assert "--batch-size" not in said and "--lr" not in said


def test_resuming_under_another_name(refused, mine):
    assert "--log-name" in refused("--resume", "mine", "--log-name", "yours")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_file_where_the_runs_should_be(refused, command):
    Path("runs").write_text("")
    assert "runs" in refused(command, *MLP)


def test_training_prints_an_epoch_a_line_and_where_it_went(capsys):
    assert main([*MLP, "--epochs", "3", "--rule", "kp", "--log-name", "mine"]) == 0
    out, err = capsys.readouterr()
    *head, data, run, titles, first, second, third, done = out.splitlines()
    where, compute, threads = " ".join(map(str.strip, head)).rsplit(", ", 2)
    assert where == f"mlp, {64 * 8 + 80} weights, by kp on digits; cpu, float32"
    assert (compute, threads) == tuple(kernels.equip(open_device("cpu")).kernels.rsplit(", ", 1))
    assert data == "data: 1,437 training and 360 test images of 10 classes"
    assert run == "run: runs/mine" and "runs/mine" in done and err == ""
    assert titles.split() == ["loss", "train", "error", "test", "error", "matrix", "delta", "local", "images/s"]
    for number, (line, record) in enumerate(zip((first, second, third), Run("mine").metrics(), strict=True), start=1):
        assert line.startswith(f"epoch {number}/3  {record['train_loss']:.4f}  ") and len(line) == len(titles)
        errors = [f"{record[part]:.2f}" for part in ("train_error", "test_error")]
        angles = [f"{record[kind]['output' if kind == 'matrix_angles' else 'hidden1']:.1f}°" for kind in ("matrix_angles", "delta_angles")]
        angles.append(f"{record['local_delta_angles']['output']:.1f}°")
        assert line.split()[3:-1] == [errors[0], "%", errors[1], "%", *angles]


def test_the_last_line_says_whether_anything_was_left_to_do(said):
    assert said(*MLP, "--log-name", "mine").splitlines()[-1] == "done: 1 epoch, checkpoints and metrics in runs/mine"
    *_, run, last = said("--resume", "mine").splitlines()
    assert (run, last) == ("run: runs/mine", "already finished: 1 epoch, checkpoints and metrics in runs/mine")


def test_a_line_says_that_no_layer_has_an_angle(monkeypatch, said):
    found = {"delta_angles": {"hidden1": math.nan}, "delta_ratios": {"hidden1": 0.0}, "local_delta_angles": {"output": math.nan}, "update_angle": math.nan}
    monkeypatch.setattr("wtref.training.compare_with_backprop", lambda *args: found)
    row, note, _ = said(*MLP, "--rule", "kp").splitlines()[-3:]
    assert re.search(r"%  +[\d.]+°       –       –  +[\d,]+$", row)
    assert note == "    no delta angle in 1 of 1 layers, no local delta angle in 1 of 1 layers"


def test_layers_without_an_angle_are_counted_and_drawn_around(capsys):
    """Errors that pass a hundred sigmoids are too small for float32; under backprop the others' angle is 0."""
    deep = [*"--model mlp --activation sigmoid --epochs 2 --batch-size 500 --device cpu --hidden".split(), *["6"] * 100]
    assert main([*deep, "--log-name", "deep", "--save-every", "4"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [number for number, line in enumerate(lines) if line.startswith("epoch ")]
    for number, record in zip(rows, Run("deep").metrics(), strict=True):
        silent = sum(map(math.isnan, record["delta_angles"].values()))
        assert 10 < silent < 90 and set(map(str, record["delta_angles"].values())) == {"0.0", "nan"}
        assert "%    0.0°    0.0°    0.0°  " in lines[number]
        assert lines[number + 1].startswith(f"    no delta angle in {silent} of 100 layers, no local delta angle in ")
    assert main(["figures", "deep"]) == main(["runs"]) == main(["train", "--resume", "deep"]) == 0


@pytest.mark.slow
def test_compare_s_runs_are_train_s_runs(capsys):
    """Other processes, the same numbers."""
    assert main(["compare", *MLP, "--rules", "fa", "wm", "--seeds", "2", "--jobs", "2", "--epochs", "2"]) == 0
    text = Path("runs/compare-digits-1/metrics.jsonl").read_text()
    found = {(x["rule"], x["seed"], x["epoch"]): x["test_loss"] for x in map(json.loads, text.splitlines())}
    wanted = {}
    for rule in ("fa", "wm", "frozen"):
        for seed in (0, 1):
            name = f"{rule}{seed}"
            main([*MLP, "--rule", rule, "--seed", str(seed), "--epochs", "2", "--log-name", name,
                  "--weight-decay", str(DIGITS["weight_decay"])])  # fmt: skip
            wanted |= {(rule, seed, line["epoch"]): line["test_loss"] for line in Run(name).metrics()}
    assert found == pytest.approx(wanted, rel=1e-4)  # BLAS may split its sums otherwise over other threads


DIVERGED = r"wtref: the loss became (nan|inf) in epoch 1, step \d+ of 45, at learning rate [\d.e+-]+; .*\n"


def test_divergence_is_one_line_and_exit_code_1(here):
    code, out, err = finish(start(*MLP, "--lr", "1e9", "--log-name", "mine", cwd=here))
    assert code == 1
    assert re.fullmatch(DIVERGED, err) and "runs/mine holds no checkpoint" in err
    assert "done" not in out and os.listdir("runs/mine") == ["config.json"]


def test_divergence_in_compare_names_the_run(here):
    code, out, err = finish(start("compare", *MLP, "--lr", "1e9", "--rules", "kp", "--seeds", "1", "--jobs", "1", cwd=here))
    assert code == 1
    kp, frozen = err.splitlines(keepends=True)
    assert re.fullmatch(DIVERGED, kp) and re.fullmatch(DIVERGED, frozen)
    assert kp.endswith("(compare-digits-1-kp-0)\n") and frozen.endswith("(compare-digits-1-frozen-0)\n")


def test_divergence_later_on_keeps_the_epochs_before(monkeypatch, capsys):
    step = Training.step

    def spoilt(self, images, labels):
        loss, logits = step(self, images, labels)
        return (np.float32("nan") if self.epoch == 2 else loss), logits

    monkeypatch.setattr(Training, "step", spoilt)
    assert main([*MLP, "--epochs", "4", "--log-name", "mine"]) == 1
    said = capsys.readouterr().err
    assert "in epoch 3, step 1 of 45" in said and "runs/mine holds epoch 2" in said
    assert [line["epoch"] for line in Run("mine").metrics()] == [1, 2]


def test_too_little_memory_is_one_line(monkeypatch, capsys):
    def full(*args, **kwargs):
        raise MemoryError("Out of memory allocating 1 byte")

    monkeypatch.setattr(Training, "step", full)
    assert main([*MLP, "--batch-size", "77", "--log-name", "mine"]) == 2
    err = capsys.readouterr().err
    assert "out of memory" in err and "--batch-size" in err and "77" in err and len(err.strip().splitlines()) == 1


def test_ctrl_c_while_training(here, capsys):
    process = start(*MLP, "--epochs", "100000", "--log-name", "mine", cwd=here)
    for line in process.stdout:
        if line.startswith("epoch 3/"):
            break
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130 and err.strip().count("\n") == 0
    with np.load("runs/mine/last.npz") as file:
        plain = json.loads(str(file["plain.json"]))
    epoch, step = plain["epoch"], plain["position"]
    assert epoch >= 3 and f"stopped in epoch {epoch + 1}, after step {step} of 45; " in err
    assert "saved in runs/mine;" in err and "train --resume mine" in err
    assert main(["eval", "mine", "--device", "cpu"]) == 0
    assert f"mine: last checkpoint, after {counted(epoch, 'epoch')} and {counted(step, 'step')}\n" in capsys.readouterr().out


@pytest.mark.slow
def test_ctrl_c_while_comparing(here):
    """The terminal's Ctrl-C reaches the workers too."""
    process = start("compare", *MLP, "--rules", "bp", "fa", "--seeds", "5000", "--jobs", "2", cwd=here)
    first = Run("compare-digits-1-bp-0")
    wait_until(first.folder.joinpath("metrics.jsonl").exists)
    os.killpg(process.pid, signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130
    assert err.count("\n") == 1 and err.startswith("wtref: interrupted; ")
    again = "compare --model mlp --hidden 8 --device cpu --epochs 1 --rules bp fa --seeds 5000 --jobs 2 --log-name compare-digits-1"
    assert "runs finished; missing: " in err and err.endswith(f"; do what is left with: python run.py {again}\n")
    assert first.finished() and "BP" in out and not Path("runs/compare-digits-1").exists()
    wait_until(lambda: is_empty(process.pid))


def test_ctrl_c_before_the_first_comparison_is_done_claims_no_metrics(monkeypatch, capsys):
    def interrupted(*args):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr(compare, "completed", interrupted)
    assert main(["compare", *MLP, "--rules", "bp", "--seeds", "2", "--jobs", "2"]) == 130
    out, err = capsys.readouterr()
    assert "interrupted; 0 of 4 runs finished; missing: bp seed 0, frozen seed 0, bp seed 1, frozen seed 1;" in err and "BP" not in out
    assert not os.path.exists("runs")


def test_without_its_package_tensorboard_is_one_line_and_nothing_is_made(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    monkeypatch.setattr(Training, "step", None)
    assert "tensorboardX" in refused(*MLP, "--tensorboard", "--log-name", "mine")


def events(folder):
    """{(tag, step): number} of the event file in folder, whose records are length, checksum, Event, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    (path,) = Path(folder).iterdir()
    data, found = path.read_bytes(), {}
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        event, data = Event.FromString(data[12:end]), data[end + 4 :]
        found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def test_tensorboard_gets_every_number_of_every_epoch(said):
    pytest.importorskip("tensorboardX")
    said(*MLP, "--epochs", "2", "--rule", "fa", "--tensorboard", "--log-name", "mine")
    written = {key: pytest.approx(value, rel=1e-6) for key, value in events("runs/mine/events").items()}
    for record in Run.find("mine").metrics():
        for name in ("test_error", "train_loss", "lr"):
            assert written[name, record["epoch"]] == record[name]
        for layer, angle in record["matrix_angles"].items():
            assert written[f"matrix_angles/{layer}", record["epoch"]] == angle
