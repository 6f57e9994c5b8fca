"""The command line itself: what its words mean, help, exit codes, and what ends it."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from dataclasses import fields
from pathlib import Path

import pytest

from launching import MLP, RUN_PY, environment, write_program
from programs import finish, start
from wtref import __version__, datasets
from wtref.cli.main import main
from wtref.relatives import RULES
from wtref.runs.config import Config
from wtref.runs.run import Run
from wtref.training import Training


COMMANDS = ("compare", "train", "eval", "predict", "runs", "figures", "export", "import", "data", "check", "audit")


NAMES = {
    "eval": ["mine"], "predict": ["mine", "x.png"], "figures": ["mine"], "export": ["mine"], "import": ["x.pt"],
    "data": ["fetch", "mnist"],
}  # fmt: skip


@pytest.fixture
def mine(capsys):
    """The folder of a run called mine, of one epoch."""
    assert main([*MLP, "--log-name", "mine"]) == 0
    capsys.readouterr()
    return Path("runs/mine")


def test_an_unknown_command_lists_the_commands(refused):
    said = refused("trian", "--epochs", "3")
    assert "'trian'" in said and all(command in said for command in COMMANDS)


@pytest.mark.parametrize("command", [[], *([command] for command in COMMANDS)])
def test_an_unknown_flag_is_named(refused, command):
    said = refused(*command, *NAMES.get("".join(command), ()), "--learning-rate", "3")
    assert said == f"wtref: unrecognized arguments: --learning-rate 3 (see python run.py {''.join(command) or 'train'} --help)\n"


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
               for seed in range(5) for rule in ("bp", "fa", "ss", "wm", "kp", "frozen")]  # fmt: skip
    assert list(experiment.configs(name).values()) == configs


def test_compare_takes_any_flag_of_a_run(compared):
    main("compare --rules kp dfa --seeds 2 --jobs 3 --model mlp --hidden 7 8 --weight_decay 0".split())
    ((experiment, name, folder, _, jobs, _),) = compared
    assert (name, folder, jobs) == ("compare-digits-1", Path("runs/compare-digits-1"), 3)
    config = Config(model="mlp", epochs=8, hidden=(7, 8), weight_decay=0.0)
    assert experiment.configs(name) == {
        f"compare-digits-1-{rule}-{seed}": replace(config, rule=rule, seed=seed) for rule in ("kp", "dfa", "frozen") for seed in (0, 1)
    }


@pytest.mark.parametrize("given, trained", [("fa bp fa", "fa bp frozen"), ("frozen kp", "frozen kp"), ("frozen", "frozen")])
@pytest.mark.parametrize("command, own", [("compare --model mlp", {}), ("reproduce mnist-mlp", {"lr": 0.2})])
def test_every_comparison_has_the_control(compared, command, own, given, trained):
    """It has the experiment's own fields, and each rule is there once."""
    assert main([*command.split(), "--rules", *given.split()]) == 0
    ((experiment, *_),) = compared
    assert list(experiment.rules) == trained.split()
    assert experiment.rules["frozen"] == own


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
    assert not os.listdir(here)


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


# The first row is not printed before standard input is closed.
WAITING = """
import sys
from wtref.cli.main import main
from wtref.runs import printed
row = printed.row
printed.row = lambda *epoch: sys.stdin.read() or row(*epoch)
sys.exit(main())
"""


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_traceback():
    command = [sys.executable, write_program(WAITING), *MLP, "--epochs", "2", "--log-name", "mine"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment(), **pipes)
    next(line for line in process.stdout if "test error" in line)
    process.stdout.close()
    process.stdin.close()
    assert process.stderr.read() == "" and process.wait() == 1
    assert main(["train", "--resume", "mine", "--device", "cpu"]) == 0
