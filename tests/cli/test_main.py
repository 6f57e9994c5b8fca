"""The command line: bad input is one line and exit code 2, and leaves the disk as it was."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from fake_cupy import fake_cupy
from launching import MLP, RUN_PY
from programs import finish, is_empty, start, wait_until
from wtref import __version__, datasets
from wtref.cli.main import main
from wtref.datasets import DATA_DIR, DATASETS
from wtref.device import open_device
from wtref.fast import ops as kernels
from wtref.models import ALIASES, MODELS
from wtref.noise import NOISES
from wtref.relatives import RULES
from wtref.runs import compare
from wtref.runs.config import Config
from wtref.runs.experiments import DIGITS
from wtref.runs.run import Run
from wtref.training import Training

COMMANDS = ("compare", "train", "eval", "predict", "runs", "figures", "export", "import", "data", "check", "audit")
NAMES = {
    "eval": ["mine"], "predict": ["mine", "x.png"], "figures": ["mine"], "export": ["mine"], "import": ["x.pt"],
    "data": ["fetch", "mnist"],
}  # fmt: skip
DATA = {"shape": (8, 8, 1), "class_names": tuple("0123456789"), "mean": [5.0], "std": [6.0], "levels": 16, "sha256": ""}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


def contents(folder):
    """Every path below folder, and the bytes of the files."""
    return {path: path.read_bytes() if path.is_file() else None for path in sorted(Path(folder).rglob("*"))}


@pytest.fixture
def refused(here, capsys):
    """A function that holds a command line to the rules for bad input and returns its one line."""

    def refuse(*argv):
        before = contents(here)
        assert main([str(arg) for arg in argv]) == 2
        out, err = capsys.readouterr()
        assert contents(here) == before
        assert out == ""
        assert err.startswith("wtref: ") and err.count("\n") == 1 and err.endswith("\n")
        return err

    return refuse


# --- unknown and impossible values ------------------------------------------------------------------------


@pytest.mark.parametrize("command", [[], ["train"], ["compare"]])
@pytest.mark.parametrize(
    "flag, choices",
    [
        ("--model", [*MODELS, *ALIASES]),
        ("--dataset", DATASETS),
        ("--device", ["auto", "cpu", "cuda", "cuda:N"]),
        ("--dtype", ["float32", "float64"]),
        ("--mirror-noise", NOISES),
        ("--mirror_noise", NOISES),
        ("--mirror-bound", ["decay", "scaling"]),
        ("--mirror-activation", ["relu", "sigmoid", "tanh"]),
        ("--schedule", ["constant", "step", "cosine"]),
        ("--loss", ["softmax", "sigmoid"]),
        ("--norm", ["before", "after", "none"]),
        ("--activation", ["relu", "sigmoid", "tanh"]),
        ("--stem", ["cifar", "imagenet"]),
    ],
)
def test_an_unknown_choice_lists_the_choices(refused, command, flag, choices):
    said = refused(*command, flag, "nonsense")
    assert "'nonsense'" in said and flag.strip("-").replace("_", "-").replace("-", " ") in said
    assert said.rstrip().endswith(f"choose from: {', '.join(choices)}")


@pytest.mark.parametrize("argv", ["--rule bq", "train --rule bq", "compare --rules bp bq"])
def test_an_unknown_rule_lists_the_rules(refused, argv):
    assert refused(*argv.split()).rstrip().endswith(f"unknown rule 'bq'; choose from: {', '.join(RULES)}")


@pytest.mark.parametrize("argv", [["audit", "--dtype", "float16"], ["audit", "--device", "tpu"]])
def test_an_unknown_choice_for_the_audit(refused, argv):
    assert f"unknown {argv[1].strip('-')} {argv[2]!r}; choose from" in refused(*argv)


def test_an_unknown_command_lists_the_commands(refused):
    said = refused("trian", "--epochs", "3")
    assert "'trian'" in said and all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_an_unknown_flag_is_named(refused, command):
    said = refused(*command, *NAMES.get("".join(command), ()), "--learning-rate", "3")
    assert "--learning-rate" in said and "--help" in said


@pytest.mark.parametrize("value", ["many", "1,5", ""])
@pytest.mark.parametrize("flag", ["--epochs", "--lr", "--momentum", "--seed", "--mirror-window", "--hidden"])
def test_not_a_number(refused, flag, value):
    said = refused("train", flag, value)
    assert flag in said and repr(value) in said


@pytest.mark.parametrize(
    "flag, value",
    [
        ("--epochs", 0), ("--epochs", -3), ("--batch-size", 0), ("--lr", 0), ("--lr", -1), ("--lr", "nan"),
        ("--momentum", 1), ("--momentum", -0.1), ("--weight-decay", -1), ("--warmup", 1), ("--warmup", "nan"),
        ("--hidden", 0), ("--mirror-window", 0), ("--mirror-rows", 0), ("--mirror-every", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["train --rule wm", "compare --rules wm"])
def test_an_impossible_number_names_the_flag_and_the_value(refused, command, flag, value):
    said = refused(*command.split(), flag, value)
    assert f"{flag} must be " in said and str(value) in said


def test_an_impossible_seed(refused):
    assert "--seed must be at least 0, found -1" in refused("train", "--seed", -1)


@pytest.mark.parametrize("flags", [["--hidden"], ["--milestones"], ["--lr"], ["--log-name"]])
def test_a_flag_without_its_value(refused, flags):
    assert flags[0] in refused("train", *flags)


@pytest.mark.parametrize("command", [["train", "--rule"], ["compare", "--rules", "bp"]], ids=" ".join)
def test_mirror_rows_that_are_no_power_of_two(refused, command):
    said = refused(*command, "wm", "--model", "mlp", "--mirror-rows", 3)
    assert "mirror-rows" in said and "power of two" in said and "found 3" in said


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_network_too_large_for_the_images(refused, command):
    said = refused(command, "--model", "lenet", "--dataset", "digits", "--device", "cpu")
    assert "conv2" in said and "5x5" in said and "4x4" in said


@pytest.mark.parametrize("value", [0, -2, "five"])
@pytest.mark.parametrize("flag", ["--seeds", "--jobs"])
def test_compare_wants_seeds_and_jobs(refused, flag, value):
    said = refused("compare", *MLP, "--rules", "bp", flag, value)
    assert flag in said and str(value) in said


def test_eval_wants_a_name(refused):
    assert "NAME" in refused("eval")


# --- devices ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["train", "compare", "audit"])
@pytest.mark.parametrize(
    "cupy, device, wanted",
    [
        (None, "cuda", "CuPy is not installed"),
        (fake_cupy(0), "cuda", "finds no GPU"),
        (fake_cupy(1), "cuda:7", "cuda:7"),
    ],
)
def test_a_gpu_that_is_not_there(monkeypatch, refused, command, cupy, device, wanted):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    assert wanted in refused(command, "--device", device)


def test_eval_on_a_gpu_that_is_not_there(monkeypatch, refused, mine):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert "CuPy is not installed" in refused("eval", "mine", "--device", "cuda")


def test_auto_trains_on_the_cpu_without_cupy(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert main(["--model", "mlp", "--hidden", "4", "--epochs", "1"]) == 0
    assert "; cpu, float32" in capsys.readouterr().out


# --- names and folders ------------------------------------------------------------------------------------


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


def test_eval_before_the_first_epoch(refused):
    Run.create(Config(model="mlp"), DATA, "cpu", "mine")
    for which in ("last", "best"):
        said = refused("eval", "mine", "--checkpoint", which, "--device", "cpu")
        assert "'mine'" in said and f"no {which} checkpoint" in said and "--resume mine" in said


# --- damaged files ----------------------------------------------------------------------------------------


def flipped(data):
    """One byte in the middle is another."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]


def save(path, **arrays):
    with open(path, "wb") as file:
        np.savez(file, **arrays)


def spoil(path, how):
    """Damage the .npz at path."""
    data = path.read_bytes()
    with np.load(path) as file:
        arrays = dict(file)
    key = next(iter(arrays))
    if how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not what was there\n")
    elif how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "flipped byte":
        path.write_bytes(flipped(data))
    elif how == "other array":
        with open(path, "wb") as file:
            np.save(file, np.ones(3))
    elif how == "missing array":
        save(path, **{name: array for name, array in arrays.items() if name != key})
    elif how == "shorter array":
        save(path, **{**arrays, key: arrays[key][:-1]})
    elif how == "nothing inside":
        save(path)


HOW = (
    "empty", "text", "cut", "flipped byte", "other array", "missing array", "shorter array", "nothing inside",
)  # fmt: skip
USES = ("eval mine --device cpu", "train --resume mine")


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("use", USES)
def test_a_damaged_checkpoint(refused, mine, use, how):
    spoil(mine / "last.npz", how)
    assert "last.npz" in refused(*use.split())


NO_CONFIGS = (
    b"", b"{", b"[]", b"{}", b"\0", b"\xff\xfe", b'{"config": 3}', b'{"config": {"layers": 3}}',
    b'{"config": {"epochs": "x"}}', b'{"config": {"model": "vgg"}}',
)  # fmt: skip


@pytest.mark.parametrize("data", NO_CONFIGS)
@pytest.mark.parametrize("use", USES)
def test_a_damaged_config(refused, mine, use, data):
    (mine / "config.json").write_bytes(data)
    assert "config.json" in refused(*use.split())


def test_damaged_metrics(refused, mine):
    config = (mine / "config.json").read_text()
    (mine / "config.json").write_text(config.replace('"epochs": 1', '"epochs": 2'))  # there is more to do
    (mine / "metrics.jsonl").write_text('{"epoch": 1, "tra')
    assert "metrics.jsonl" in refused("--resume", "mine")


@pytest.fixture
def digits(here):
    """A copy of the digits' file, to be damaged."""
    path = here / "data" / "digits" / "digits.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes((DATA_DIR / "digits" / "digits.npz").read_bytes())
    return path


@pytest.mark.parametrize("command", ["train", "compare"])
@pytest.mark.parametrize("how", HOW)
def test_damaged_digits(refused, digits, command, how):
    spoil(digits, how)
    assert "digits.npz" in refused(command, *MLP, "--data-dir", "data")


def test_digits_with_too_few_labels(refused, digits):
    with np.load(digits) as file:
        arrays = dict(file)
    save(digits, images=arrays["images"], labels=arrays["labels"][:100])
    assert "digits.npz" in refused(*MLP, "--data-dir", "data")


@pytest.mark.parametrize("command", ["train", "compare"])
def test_missing_digits(refused, command):
    said = refused(command, *MLP, "--data-dir", "nowhere")
    assert "nowhere/digits/digits.npz" in said and "missing" in said and "--data-dir" in said


@pytest.mark.parametrize("command", ["train", "compare"])
def test_a_file_where_the_runs_should_be(refused, command):
    Path("runs").write_text("")
    assert "runs" in refused(command, *MLP)


# --- what the words mean ----------------------------------------------------------------------------------


@pytest.fixture
def compared(monkeypatch):
    """What compare was called with."""
    calls = []
    monkeypatch.setattr("wtref.cli.training.compare", lambda *call: calls.append(call))
    return calls


@pytest.mark.parametrize("argv", [[], ["reproduce", "digits"]])
def test_no_arguments_mean_reproduce_digits(compared, argv):
    assert main(argv) == 0
    ((experiment, name, folder, command, jobs, _),) = compared
    assert (name, folder, command, jobs) == ("digits", Path("runs/reproduce-digits"), "python run.py reproduce digits", None)
    configs = [Config(model="resnet20", epochs=8, weight_decay=0.03, rule=rule, seed=seed)
               for seed in range(5) for rule in ("bp", "fa", "ss", "wm", "kp")]  # fmt: skip
    assert list(experiment.configs(name).values()) == configs


def test_compare_takes_any_flag_of_a_run(compared):
    main("compare --rules kp dfa --seeds 2 --jobs 3 --model mlp --hidden 7 8 --weight_decay 0".split())
    ((experiment, name, folder, _, jobs, _),) = compared
    assert (name, folder, jobs) == ("compare-digits-1", Path("runs/compare-digits-1"), 3)
    config = Config(model="mlp", epochs=8, hidden=(7, 8), weight_decay=0.0)
    assert experiment.configs(name) == {
        f"compare-digits-1-{rule}-{seed}": replace(config, rule=rule, seed=seed) for rule in ("kp", "dfa") for seed in (0, 1)
    }


def test_compare_without_flags_is_the_main_job_in_a_folder_of_its_own(compared):
    assert main([]) == main(["compare"]) == 0
    first, second = (list(experiment.configs(name).values()) for experiment, name, *_ in compared)
    assert first == second and compared[1][1] == "compare-digits-1"


@pytest.mark.parametrize("argv", [
    "train {} --log-name my_run", "{} --log-name my_run", "{} --log_name my_run", "--log_name=my_run {}",
    "train --log-name=my_run {}",
])  # fmt: skip
def test_ways_to_say_train(argv):
    flags = "--model mlp --hidden 8 6 --device cpu --epochs 1 --rule kp --batch_size 64 --weight-decay=1e-3"
    assert main(argv.format(flags).split()) == 0
    network = {"model": "mlp", "hidden": (8, 6), "device": "cpu"}
    assert os.listdir("runs") == ["my_run"]
    assert Run("my_run").config() == Config(**network, epochs=1, rule="kp", batch_size=64, weight_decay=1e-3)


@pytest.mark.parametrize("flag", ["--nesterov", "--no-nesterov", "--no_nesterov"])
def test_a_switch_has_two_positions(flag):
    main([*MLP, flag, "--log-name", "mine"])
    assert Run("mine").config().nesterov == (flag == "--nesterov")


def test_training_prints_an_epoch_a_line_and_where_it_went(capsys):
    assert main([*MLP, "--epochs", "3", "--rule", "kp", "--log-name", "mine"]) == 0
    out, err = capsys.readouterr()
    head, data, run, *epochs, done = out.splitlines()
    where, compute, threads = head.rsplit(", ", 2)
    assert where == f"mlp, {64 * 8 + 80} weights, by kp on digits; cpu, float32"
    assert (compute, threads) == tuple(kernels.equip(open_device("cpu")).kernels.rsplit(", ", 1))
    assert data == "data: 1,437 training and 360 test images of 10 classes"
    assert run == "run: runs/mine" and "runs/mine" in done and err == ""
    for number, (line, record) in enumerate(zip(epochs, Run("mine").metrics(), strict=True), start=1):
        assert line.startswith(f"epoch {number}/3  loss {record['train_loss']:.4f}  ")
        assert f"test error {record['test_error']:.2f} %" in line
        assert f"matrix angle {record['matrix_angles']['output']:.1f}°" in line


def test_layers_without_an_angle_are_counted_and_drawn_around(capsys):
    """Errors that pass a hundred sigmoids are too small for float32; under backprop the others' angle is 0."""
    deep = [*"--model mlp --activation sigmoid --epochs 2 --batch-size 500 --device cpu --hidden".split(), *["6"] * 100]
    assert main([*deep, "--log-name", "deep", "--save-every", "4"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch ")]
    for line, record in zip(lines, Run("deep").metrics(), strict=True):
        silent = sum(map(math.isnan, record["delta_angles"].values()))
        assert 10 < silent < 90 and set(map(str, record["delta_angles"].values())) == {"0.0", "nan"}
        assert f"matrix angle 0.0°  delta angle 0.0° ({silent} of 100 layers have none)  " in line
    assert main(["figures", "deep"]) == main(["runs"]) == main(["train", "--resume", "deep"]) == 0


def squeezed(text):
    """Without white space: help texts are wrapped, at hyphens too."""
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize("command", ["train", "compare"])
def test_help_names_and_explains_every_field(capsys, command):
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    for spec in fields(Config):
        flag = "--" + spec.name.replace("_", "-")
        if command == "compare" and spec.name in ("rule", "seed"):
            flag += "s"
        else:
            assert squeezed(spec.metadata["help"]) in squeezed(out)
        assert re.search(rf"^  {flag}\b(?!-)", out, re.MULTILINE), flag
        assert squeezed(", ".join(spec.metadata["choices"] or ())) in squeezed(out)


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_help_of_every_command(capsys, command):
    assert main([*command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: {' '.join(['run.py', *command])}")
    assert command or all(re.search(rf"^ +{name} +\w", out, re.MULTILINE) for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"wtref {__version__}\n"


def test_compare_s_runs_are_train_s_runs(capsys):
    """Other processes, the same numbers."""
    assert main(["compare", *MLP, "--rules", "fa", "wm", "--seeds", "2", "--jobs", "2", "--epochs", "2"]) == 0
    text = Path("runs/compare-digits-1/metrics.jsonl").read_text()
    found = {(x["rule"], x["seed"], x["epoch"]): x["test_loss"] for x in map(json.loads, text.splitlines())}
    wanted = {}
    for rule in ("fa", "wm"):
        for seed in (0, 1):
            name = f"{rule}{seed}"
            main([*MLP, "--rule", rule, "--seed", str(seed), "--epochs", "2", "--log-name", name,
                  "--weight-decay", str(DIGITS["weight_decay"])])  # fmt: skip
            wanted |= {(rule, seed, line["epoch"]): line["test_loss"] for line in Run(name).metrics()}
    assert found == pytest.approx(wanted, rel=1e-4)  # BLAS may split its sums otherwise over other threads


# --- failures ---------------------------------------------------------------------------------------------

DIVERGED = r"wtref: the loss became (nan|inf) in epoch 1, step \d+ of 45, at learning rate [\d.e+-]+; .*\n"


def test_divergence_is_one_line_and_exit_code_1(here):
    code, out, err = finish(start(*MLP, "--lr", "1e9", "--log-name", "mine", cwd=here))
    assert code == 1
    assert re.fullmatch(DIVERGED, err) and "runs/mine holds no checkpoint" in err
    assert "done" not in out and os.listdir("runs/mine") == ["config.json"]


def test_divergence_in_compare_names_the_run(here):
    code, out, err = finish(start("compare", *MLP, "--lr", "1e9", "--rules", "kp", "--seeds", "1", cwd=here))
    assert code == 1
    assert re.fullmatch(DIVERGED, err)
    assert err.endswith("(compare-digits-1-kp-0)\n")


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


@pytest.mark.parametrize("error", [ValueError("bug"), ArithmeticError(), KeyError(), OSError()], ids=repr)
def test_an_internal_error_is_not_dressed_up(monkeypatch, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(Training, "step", broken)
    with pytest.raises(type(error)) as caught:
        main(MLP)
    assert caught.value is error


def test_an_internal_error_keeps_its_traceback(here):
    text = (
        f"import sys; sys.path.insert(0, {str(RUN_PY.parent)!r})\n"
        "from wtref import training\n"
        "from wtref.cli import main as cli\n"
        "training.Training.step = lambda *args, **how: [][3]\n"
        f"sys.exit(cli.main({MLP}))\n"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, cwd=here)
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "training.py" in done.stderr and "IndexError" in done.stderr


def test_bad_input_at_the_door(here):
    assert finish(start("--rule", "bq", cwd=here)) == (
        2, "", f"wtref: unknown rule 'bq'; choose from: {', '.join(RULES)}\n",
    )  # fmt: skip
    assert not contents(here)


# --- interruptions ----------------------------------------------------------------------------------------


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
    assert f"mine: last checkpoint, after {epoch} epochs and {step} steps" in capsys.readouterr().out


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
    assert "interrupted; 0 of 2 runs finished; missing: bp seed 0, bp seed 1;" in err and "BP" not in out
    assert not os.listdir("runs")


@pytest.mark.parametrize("argv", [["train"], ["eval", "mine"], ["compare"]], ids=" ".join)
def test_ctrl_c_before_any_work_is_one_line(monkeypatch, capsys, mine, argv):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(datasets, "load", interrupted)
    try:
        code = main([*argv, "--device", "cpu"])
    except KeyboardInterrupt:
        pytest.fail("a traceback")
    assert code == 130 and capsys.readouterr().err.strip().count("\n") == 0


def test_a_reader_that_leaves_early_is_no_traceback(here):
    process = start(*MLP, "--epochs", "50", "--log-name", "mine", cwd=here)
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait() == 1
    assert main(["train", "--resume", "mine", "--device", "cpu"]) == 0
