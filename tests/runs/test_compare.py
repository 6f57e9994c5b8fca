"""`compare` and `reproduce`: what is left is done, and the report holds what the runs' metrics say."""

import itertools
import json
import os
import re
import shlex
import signal
from pathlib import Path
from statistics import mean

import pytest

from tiny_experiment import TINY
from wtref.cli.main import main
from wtref.device import open_device
from wtref.distributed.group import ProcessGroup
from wtref.fast.ops import equip
from wtref.runs import compare
from wtref.runs.config import Config
from wtref.runs.experiments import EXPERIMENTS
from wtref.runs.folders import run_names
from wtref.runs.run import Run
from wtref.training import Training


TINY_ALONE = ["reproduce", "tiny", "--jobs", "1"]  # in this process


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(EXPERIMENTS, "tiny", TINY)


def errors(seeds=(0, 1)):
    return {(rule, seed): [x["test_error"] for x in Run(f"tiny-{rule}-{seed}").metrics()] for rule in TINY.rules for seed in seeds}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_recipe_is_a_run_that_can_be(name):
    experiment = EXPERIMENTS[name]
    for rule, own in experiment.rules.items():
        Config(**{**experiment.recipe, **own, "rule": rule})
    assert experiment.published.keys() <= experiment.rules.keys() and list(experiment.rules)[-1] == "frozen"
    assert bool(experiment.source) == bool(experiment.published)


def test_table_and_report_say_what_the_runs_found(capsys):
    assert main(["reproduce", "tiny", "--threads", "1"]) == 0
    kernels = equip(open_device("cpu"), threads=1).kernels
    assert f" at a time; cpu, float32, {kernels} data: " in " ".join(capsys.readouterr().out.split())
    kp = 100 - mean(errors()["kp", seed][-1] for seed in (0, 1))
    table = Path("runs/reproduce-tiny/table.txt").read_text()
    assert re.search(rf"KP +{kp:.2f} ± \d+\.\d\d .* 2 +1\.25\(5\)$", table, re.MULTILINE)
    assert re.findall(r"^ *(BP|frozen) .* 0\.0 .* –$", table, re.MULTILINE) == ["BP", "frozen"]
    page = Path("runs/reproduce-tiny/report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 4 and not re.search(r'(src|href)="(?!data:)', page)
    assert f"{kp:.2f} ±" in page and "reproduce tiny --threads 1" in page and "nobody" in page
    assert "bp: {&quot;lr&quot;: 0.1}\nkp: {&quot;lr&quot;: 0.2}\nfrozen: {&quot;lr&quot;: 0.1}" in page
    lines = [json.loads(line) for line in Path("runs/reproduce-tiny/metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 2 * TINY.recipe["epochs"]
    assert Run("tiny-kp-1").config().lr == 0.2 and Run("tiny-bp-1").config().lr == Config.lr


@pytest.mark.parametrize("command", [["reproduce", "tiny", "--jobs", "1"], ["train", "--model", "mlp", "--epochs", "1"]])
def test_without_a_compiler_the_first_line_says_so(command, monkeypatch, capsys):
    monkeypatch.setenv("CC", "no-such-compiler")
    assert main(command) == 0
    out, err = capsys.readouterr()
    reason = "plain kernels (the C compiler 'no-such-compiler' was not found; install gcc, or set CC to a C compiler), "
    about = " ".join(out.partition("\ndata: ")[0].split())
    assert reason in about and (out + err).count("no-such-compiler") == 1


def test_an_interrupted_experiment_does_what_is_left(monkeypatch, capsys):
    assert main(TINY_ALONE) == 0
    wanted = errors()
    monkeypatch.chdir(Path("runs"))  # a fresh place
    step, left = Training.step, [30]

    def cut_short(self, *args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(Training, "step", cut_short)
    assert main(TINY_ALONE) == 130
    assert not Path("runs/reproduce-tiny").exists()
    left[0] = 10**6
    assert main(TINY_ALONE) == 0
    assert errors() == wanted
    assert 10**6 - left[0] <= 6 * 2 * 12 - 12, "the first run's first epoch at least was not done again"
    monkeypatch.setattr(Training, "step", None)
    assert main(TINY_ALONE) == 0, "nothing is left to do, and nothing is done"


MOMENTS = {  # of the first of three runs, with 24 steps: what is called then, and how often before
    "in its last step": (Training, "step", 24),
    "as it is evaluated": (Training, "evaluate", 2),
    "as it is saved": (Run, "save", 2),
    "as it says that it is done": (ProcessGroup, "union", 1),
}


ENDING = [(signal.SIGINT, 130), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((signal.SIGTERM, 143), (signal.SIGHUP, 129)))]


@pytest.mark.parametrize("number, code", ENDING)
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_signal_at_the_end_of_a_run_stops_the_experiment(monkeypatch, capsys, moment, number, code):
    owner, name, call = MOMENTS[moment]
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, at_call(getattr(owner, name), call, lambda: os.kill(os.getpid(), number)))
        assert main([*TINY_ALONE, "--seeds", "1"]) == code
    said = "wtref: interrupted; 1 of 3 runs finished; missing: kp seed 0, frozen seed 0; "
    assert capsys.readouterr().err == f"{said}do what is left with: python run.py reproduce tiny --jobs 1 --seeds 1\n"
    assert Run("tiny-bp-0").finished() and not Run("tiny-kp-0").folder.exists()
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    assert "1 of 3 runs finished already" in capsys.readouterr().out and Run("tiny-kp-0").finished()


def at_call(original, call, what):
    """The function, which does `what` first in the call-th of its calls."""
    count = itertools.count(1)

    def watched(*args, **kwargs):
        if next(count) == call:
            what()
        return original(*args, **kwargs)

    return watched


class Killed(BaseException):
    pass


def killed():
    raise Killed


@pytest.mark.parametrize("name, epochs", [("write_metrics", 2), ("keep_best", 2), ("save", 1)])
def test_a_run_is_as_far_as_its_checkpoint_says(monkeypatch, capsys, name, epochs):
    """It is killed as its last epoch ends: before its checkpoint is saved, or between that and its record."""
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    wanted = errors(seeds=[0])
    monkeypatch.chdir(Path("runs"))  # a fresh place
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Run, name, at_call(getattr(Run, name), 2, killed))
        main([*TINY_ALONE, "--seeds", "1"])
    run = Run("tiny-bp-0")
    assert len(run.metrics()) == 1 and run.progress()["epoch"] == epochs and not run.finished()
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert f" {epochs}/2 " in capsys.readouterr().out
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    assert errors(seeds=[0]) == wanted and run.finished()


def test_metrics_without_their_checkpoint_are_no_finished_run(capsys):
    """As a run was left that was killed between the two when metrics were written first."""
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    wanted, run = errors(seeds=[0]), Run("tiny-bp-0")
    (run.folder / "previous.npz").replace(run.folder / "last.npz")
    capsys.readouterr()
    assert main(["runs"]) == 0
    assert re.search(r"tiny-bp-0 .* 1/2 .* unfinished$", capsys.readouterr().out, re.MULTILINE)
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    out = capsys.readouterr().out
    assert "tiny-bp-0: goes on after epoch 1\n" in out and "2 of 3 runs finished already" in out
    assert errors(seeds=[0]) == wanted and run.finished()


def test_fewer_epochs_are_runs_of_their_own():
    assert main([*TINY_ALONE, "--epochs", "1", "--seeds", "1", "--rules", "kp"]) == 0
    assert len(Run("tiny-1epochs-kp-0").metrics()) == 1
    assert Path("runs/reproduce-tiny-1epochs/report.html").exists()


@pytest.mark.parametrize(
    "flags, said",
    [
        (["unheard-of"], "unknown experiment 'unheard-of'; choose from: digits,"),
        (["tiny", "--rules", "fa"], "unknown rule for tiny 'fa'; choose from: bp, kp, frozen"),
        (["tiny", "--seeds", "0"], "--seeds must be at least 1, found 0"),
        (["tiny", "--epochs", "0"], "--epochs must be at least 1, found 0"),
        (["tiny", "--jobs", "0"], "--jobs must be at least 1, found 0"),
    ],
)
def test_what_cannot_be_is_one_line(flags, said, capsys):
    assert main(["reproduce", *flags]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"wtref: {said}") and len(err.splitlines()) == 1 and not Path("runs").exists()


def test_runs_of_another_recipe_are_not_taken_for_one_s_own(monkeypatch, capsys):
    assert main([*TINY_ALONE, "--seeds", "1", "--rules", "bp"]) == 0
    monkeypatch.setitem(TINY.recipe, "lr", 0.05)
    assert main([*TINY_ALONE, "--seeds", "1", "--rules", "bp"]) == 2
    said = "wtref: runs/tiny-bp-0 holds a run of another recipe: --lr is 0.1, not 0.05; move it away\n"
    assert capsys.readouterr().err == said


COMPARE = [*"compare --model mlp --hidden 8 --device cpu --epochs 1 --rules bp fa --seeds 1 --jobs".split()]


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_comparison_of_one_s_own_is_continued_by_its_name(capsys, jobs):
    assert main([*COMPARE, jobs]) == main([*COMPARE, jobs]) == 0
    names = {f"compare-digits-{number}{end}" for number in (1, 2) for end in ("", "-bp-0", "-fa-0", "-frozen-0")}
    assert set(os.listdir("runs")) == names
    (Run("compare-digits-1-fa-0").folder / "last.npz").unlink()
    (Run("compare-digits-1-fa-0").folder / "metrics.jsonl").unlink()
    (Run("compare-digits-1-fa-0").folder / "best.npz").unlink()
    trained, table = Run("compare-digits-1-bp-0").metrics(), Path("runs/compare-digits-1/table.txt").read_text()
    capsys.readouterr()
    assert main([*COMPARE, jobs, "--log-name", "compare-digits-1"]) == 0
    out = capsys.readouterr().out
    assert "2 of 3 runs finished already" in out and "[3/3] fa     seed 0: test accuracy " in out
    assert Run("compare-digits-1-bp-0").metrics() == trained and set(os.listdir("runs")) == names
    accuracies = [re.findall(r"^ *(BP|FA|frozen) +(\S+)", text, re.MULTILINE) for text in (table, out)]
    assert accuracies[0] == accuracies[1] and len(accuracies[0]) == 3


def test_an_interrupted_comparison_names_the_command_that_continues_it(monkeypatch, capsys):
    def interrupted(self, *args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", interrupted)
        assert main([*COMPARE, "1"]) == 130
    err = capsys.readouterr().err
    again = shlex.split(err.split("python run.py ")[1])
    assert again == [*COMPARE, "1", "--log-name", "compare-digits-1"] and "0 of 3 runs finished; missing: bp seed 0, fa seed 0, frozen seed 0;" in err
    assert main(again) == 0 and Run("compare-digits-1-fa-0").finished()


def test_an_interrupt_after_the_last_run_says_that_only_the_report_is_missing(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Training, "evaluate", at_call(Training.evaluate, 3, lambda: os.kill(os.getpid(), signal.SIGINT)))
        assert main([*COMPARE, "1"]) == 130
    assert "wtref: interrupted; all runs finished, without a report; do what is left with: " in capsys.readouterr().err


def test_a_report_does_not_overwrite_a_run(capsys):
    assert main("train --model mlp --hidden 8 --epochs 1 --device cpu --log-name mine".split()) == 0
    before = sorted(os.listdir("runs/mine")), Run("mine").metrics()
    capsys.readouterr()
    assert main([*COMPARE, "1", "--log-name", "mine"]) == 2
    assert capsys.readouterr().err == "wtref: runs/mine holds a run, so it can hold no report; move it away\n"
    assert (sorted(os.listdir("runs/mine")), Run("mine").metrics()) == before and os.listdir("runs") == ["mine"]


def test_a_report_does_not_overwrite_pictures(capsys):
    folder = Path("runs/figures-1")
    folder.mkdir(parents=True)
    for name in ("test-error.png", "notes.txt"):
        (folder / name).write_text("mine")
        assert main([*COMPARE, "1", "--log-name", "figures-1"]) == 2
        said = "wtref: runs/figures-1 holds other files than a report's, which a report could overwrite; move it away\n"
        assert capsys.readouterr().err == said and os.listdir("runs") == ["figures-1"] and os.listdir(folder) == [name]
        (folder / name).unlink()
    assert main([*COMPARE, "1", "--log-name", "figures-1"]) == 0, "an empty folder has room"
    assert main([*COMPARE, "2", "--log-name", "figures-1"]) == 0, "and a report is replaced by a newer one"


def meanwhile(monkeypatch, flags):
    """Another process runs a command line to its end as the next comparison is about to train."""
    monkeypatch.setattr(compare, "_introduce", at_call(compare._introduce, 1, lambda: main(flags)))


RP = [*"compare --model mlp --hidden 8 --device cpu --seeds 1 --jobs 1".split()]


def test_two_comparisons_at_once_have_names_and_recipes_of_their_own(monkeypatch, capsys):
    meanwhile(monkeypatch, [*RP, "--rules", "fa", "--epochs", "2", "--lr", "0.01"])
    assert main([*RP, "--rules", "bp", "--epochs", "1"]) == 0
    assert {name: (config.rule, config.epochs, config.lr) for name, config in ((name, Run(name).config()) for name in run_names())} == {
        "compare-digits-1-bp-0": ("bp", 1, 0.1), "compare-digits-1-frozen-0": ("frozen", 1, 0.1),
        "compare-digits-2-fa-0": ("fa", 2, 0.01), "compare-digits-2-frozen-0": ("frozen", 2, 0.01),
    }  # fmt: skip
    assert len(Run("compare-digits-1-frozen-0").metrics()) == 1 and "goes on" not in capsys.readouterr().out


def test_two_comparisons_at_once_under_one_name_do_not_mix(monkeypatch, capsys):
    meanwhile(monkeypatch, [*RP, "--rules", "bp", "--epochs", "1", "--log-name", "mine"])
    assert main([*RP, "--rules", "fa", "--epochs", "2", "--log-name", "mine"]) == 2
    said = "wtref: runs/mine-frozen-0 holds a run of another recipe: --epochs is 1, not 2; move it away; "
    assert capsys.readouterr().err.startswith(said) and len(Run("mine-frozen-0").metrics()) == 1


def test_a_comparison_that_is_refused_takes_no_name(capsys):
    assert main([*RP, "--rules", "bp", "--data-dir", "nowhere"]) == 2
    assert not os.listdir()


def reported(name):
    """{(rule, seed)} of a report's metrics, and the rules of its table in their order."""
    lines = [json.loads(line) for line in Path(f"runs/{name}/metrics.jsonl").read_text().splitlines()]
    table = Path(f"runs/{name}/table.txt").read_text()
    return {(line["rule"], line["seed"]) for line in lines}, re.findall(r"^ *([A-Z]{2}|frozen) .*\d$", table, re.MULTILINE)


def test_a_report_shows_all_runs_of_its_name_and_recipe(capsys):
    flags = [*RP, "--epochs", "1", "--log-name", "rep", "--rules"]
    assert main([*flags, "bp", "fa"]) == main([*flags, "ss"]) == 0
    assert reported("rep") == ({(rule, 0) for rule in ("ss", "bp", "fa", "frozen")}, ["SS", "BP", "FA", "frozen"])
    assert main("train --model mlp --hidden 8 --device cpu --epochs 2 --rule kp --log-name rep-kp-0".split()) == 0
    assert main("train --model mlp --hidden 8 --device cpu --epochs 1 --seed 1 --weight-decay 0.03 --log-name rep-bp-2".split()) == 0
    Path("runs/rep-wm-0").mkdir()
    Path("runs/rep-wm-0/config.json").write_text("{")
    assert main([*flags, "ss"]) == 0
    assert reported("rep")[1] == ["SS", "BP", "FA", "frozen"], "not those of another recipe, of another name, or damaged"


def test_fewer_rules_and_seeds_do_not_take_away_from_an_experiment_s_report(capsys):
    assert main([*TINY_ALONE, "--epochs", "1"]) == 0
    whole = reported("reproduce-tiny-1epochs")
    assert main([*TINY_ALONE, "--epochs", "1", "--rules", "bp", "--seeds", "1"]) == 0
    assert reported("reproduce-tiny-1epochs")[0] == whole[0] and len(whole[0]) == 6
    assert "2 of 2 runs finished already" in " ".join(capsys.readouterr().out.split())


def test_a_comparison_is_not_named_after_an_experiment_s_report(capsys):
    assert main([*RP, "--log-name", "reproduce-digits"]) == 2
    said = "wtref: --log-name reproduce-digits: names that begin with reproduce- are those of the reports of reproduce; choose another\n"
    assert capsys.readouterr().err == said


def test_a_run_in_the_place_of_the_main_job_s_report(capsys):
    assert main("train --model mlp --hidden 8 --epochs 1 --device cpu --log-name reproduce-digits".split()) == 0
    capsys.readouterr()
    assert main(["reproduce", "digits"]) == 2
    assert capsys.readouterr().err == "wtref: runs/reproduce-digits holds a run, so it can hold no report; move it away\n"


def test_the_flags_of_a_comparison_are_those_of_its_runs():
    assert main([*COMPARE, "2", "--save-every", "7", "--seeds", "2", "--weight-decay", "0.02"]) == 0
    for rule, seed in itertools.product(("bp", "fa", "frozen"), (0, 1)):
        config = Run(f"compare-digits-1-{rule}-{seed}").config()
        assert (config.rule, config.seed, config.save_every, config.weight_decay) == (rule, seed, 7, 0.02)


def test_figures_are_redrawn_from_the_metrics_file(capsys):
    assert main([*TINY_ALONE, "--seeds", "1"]) == 0
    drawn = {name: Path(f"runs/reproduce-tiny/{name}.png").read_bytes() for name in ("test-error", "depth", "angles", "sizes")}
    assert main(["figures", "runs/reproduce-tiny/metrics.jsonl"]) == 0
    assert {name: Path(f"runs/figures-1/{name}.png").read_bytes() for name in drawn} == drawn


@pytest.mark.parametrize("text", ["", "{", "3\n", '{"rule": "bp"}\n', None])
def test_what_is_no_metrics_file_is_one_line(text, capsys):
    if text is not None:
        Path("some.jsonl").write_text(text)
    assert main(["figures", "some.jsonl"]) == 2
    err = capsys.readouterr().err
    assert "some.jsonl" in err and len(err.splitlines()) == 1 and not Path("runs").exists()
