"""Runs that are asked to stop, damaged or moved to other data: what is resumed, what is refused, and the best checkpoint."""

import io
import itertools
import os
import random
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

from resumed_runs import AUGMENTED, SMALL, TINY, leftovers, outcome, train
from wtref.cli.main import main
from wtref.installation import EMBEDDED
from wtref.relatives import RULES
from wtref.runs import checkpoints, resuming
from wtref.runs.config import Config
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.training import Training


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- being asked to stop ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("step", [1, 6, 8])
def test_asked_to_stop_in_mid_epoch(monkeypatch, capsys, number, code, step):
    flags = [*AUGMENTED[:-3], "--rotate", "10", "--rule", "wm", "--no-tensorboard"]
    flags[flags.index("--save-every") + 1] = "1000"
    assert train("--log-name", "whole", *flags) == 0
    original, count = Training.step, itertools.count(1)

    def asked(*args, **how):
        if next(count) == step:
            os.kill(os.getpid(), number)
        return original(*args, **how)

    monkeypatch.setattr(Training, "step", asked)
    capsys.readouterr()
    assert train("--log-name", "mine", *flags) == code
    err = capsys.readouterr().err
    at = f"epoch {step // 4 + 1}, after step {step % 4} of 4"
    assert err == (f"wtref: stopped in {at}; all of it is saved in runs/mine; "
                   "go on with: python run.py train --resume mine\n")  # fmt: skip
    assert train("--resume", "mine") == 0
    assert outcome("mine") == outcome("whole")


def test_the_signals_mean_what_they_did_once_the_run_is_over():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert train("--log-name", "mine", *TINY) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


# --- damage -----------------------------------------------------------------------------------------------


def flipped(data):
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def npy(data):
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


DAMAGE = {
    "flipped byte": flipped,
    "truncated": lambda data: data[: len(data) * 2 // 3],
    "empty": lambda data: b"",
    "text": lambda data: b"hello\nthere\n",
    "another array": npy,
}


@pytest.fixture
def stopped(monkeypatch, capsys):
    """A run called mine that was stopped after step 6 of 12, beside the whole one."""
    assert train("--log-name", "whole", *SMALL) == 0
    original, count = Training.step, itertools.count(1)

    def asked(*args, **how):
        if next(count) == 6:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **how)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", asked)
        assert train("--log-name", "mine", *SMALL) == 143
    capsys.readouterr()
    return Path("runs/mine")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("how", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_last_checkpoint_gives_way_to_the_one_before(stopped, capsys, how):
    last = stopped / "last.npz"
    assert not last.samefile(stopped / "previous.npz")
    last.write_bytes(how(last.read_bytes()))
    assert train("--resume", "mine") == 0
    err = capsys.readouterr().err
    assert err.startswith("wtref: runs/mine/last.npz is damaged (") and err.count("\n") == 1
    assert err.endswith("falling back to the checkpoint before it, previous.npz\n")
    assert outcome("mine") == outcome("whole")


@pytest.mark.parametrize("how", DAMAGE.values(), ids=DAMAGE)
def test_no_whole_checkpoint_is_one_line_and_nothing_is_overwritten(stopped, capsys, how):
    for name in ("last.npz", "previous.npz"):
        (stopped / name).write_bytes(how((stopped / name).read_bytes()))
    before = contents(stopped)
    assert train("--resume", "mine") == 2
    out, err = capsys.readouterr()
    assert err.startswith("wtref: ") and err.count("\n") == 1 and out == ""
    assert "last.npz is damaged" in err and "previous.npz is damaged" in err and err.endswith(ADVICE)
    assert contents(stopped) == before


@pytest.mark.slow
def test_no_flipped_bit_goes_unnoticed_or_raises_something_else(tmp_path):
    arrays = {"a.W": np.arange(6, dtype=np.float32).reshape(2, 3), "a.b": np.float64([1, 2])}
    path, chance = tmp_path / "x.npz", random.Random(1)
    checkpoints.write(path, arrays, {"epoch": 3})
    data, noticed = path.read_bytes(), 0
    for _ in range(500):
        place, bit = chance.randrange(len(data)), 1 << chance.randrange(8)
        path.write_bytes(data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :])
        try:
            again, plain = checkpoints.read(path)
        except checkpoints.Damaged as damage:
            noticed += 1
            assert "\n" not in str(damage)
        else:
            assert plain == {"epoch": 3} and all(np.array_equal(again[k], arrays[k]) for k in arrays | again)
    assert noticed > 200


# --- where it goes on -------------------------------------------------------------------------------------


def said(capsys):
    """The line that a resumed run prints after that of its folder."""
    return capsys.readouterr().out.partition("run: runs/mine\n")[2].splitlines()[0]


def test_a_resumed_run_says_where_it_goes_on(stopped, capsys):
    assert train("--resume", "mine") == 0
    assert said(capsys) == "goes on after epoch 1, step 2 of 4"
    assert train("--resume", "mine") == 0
    assert said(capsys) == "already finished: 3 epochs, checkpoints and metrics in runs/mine"


def test_a_run_without_a_checkpoint_says_that_it_starts_anew(monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr(Run, "save", lambda *args: die_in_python())
        with pytest.raises(Died):
            train("--log-name", "mine", *SMALL)
    assert os.listdir("runs/mine") == ["config.json"]
    capsys.readouterr()
    assert train("--resume", "mine") == 0
    assert said(capsys) == "no checkpoint was saved before: the run starts at epoch 1"


class Died(BaseException):
    pass


def die_in_python():
    raise Died


ADVICE = "restore last.npz from a copy, or copy runs/mine/best.npz there, or start a new run\n"


def test_a_run_whose_checkpoints_are_lost_does_not_start_anew(stopped, capsys):
    for name in ("last.npz", "previous.npz"):
        (stopped / name).unlink()
    before = contents(stopped)
    assert train("--resume", "mine") == 2
    out, err = capsys.readouterr()
    lost = "runs/mine has metrics, but neither last.npz nor previous.npz; no checkpoint is left to go on from"
    assert (out, err) == ("", f"wtref: {lost}: {ADVICE}")
    assert contents(stopped) == before
    shutil.copy(stopped / "best.npz", stopped / "last.npz")
    assert train("--resume", "mine") == 0, "the advice helps"
    assert said(capsys) == "goes on after epoch 1" and outcome("mine") == outcome("whole")


def test_metrics_that_are_lost_are_missed(stopped, capsys):
    (stopped / "metrics.jsonl").unlink()
    assert train("--resume", "mine") == 0
    err = capsys.readouterr().err
    assert err == "wtref: runs/mine/metrics.jsonl lacks 1 of 1 epochs, which cannot be recovered\n"
    assert [record["epoch"] for record in Run("mine").metrics()] == [2, 3]


# --- a job that is started again and again ----------------------------------------------------------------


def test_one_command_starts_a_run_goes_on_with_it_and_finds_it_finished(monkeypatch, capsys):
    assert train("--log-name", "whole", *SMALL) == 0
    original, count = Training.step, itertools.count(1)

    def asked(*args, **how):
        if next(count) in (6, 9):  # the second time: the third step after the first
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **how)

    monkeypatch.setattr(Training, "step", asked)
    codes = [train("--resume-or-start", "mine", *SMALL) for _ in range(4)]
    assert codes == [143, 143, 0, 0]
    assert outcome("mine") == outcome("whole")
    capsys.readouterr()
    assert train("--resume-or-start", "mine", *SMALL) == 0
    assert said(capsys) == "already finished: 3 epochs, checkpoints and metrics in runs/mine"


@pytest.mark.parametrize("left", [[], ["config.json"], [".config.json.7.tmp"]], ids=str)
def test_it_starts_a_run_of_which_nothing_is_saved(left, capsys):
    """In an empty folder, in one without a checkpoint, and in one whose process was killed before that."""
    assert train("--log-name", "whole", *TINY) == 0
    Path("runs/mine").mkdir()
    for name in left:
        shutil.copy("runs/whole/config.json", Path("runs/mine", name))
    capsys.readouterr()
    assert train("--resume-or-start", "mine", *TINY) == 0
    assert outcome("mine") == outcome("whole") and leftovers("mine") == []


def test_it_refuses_other_flags_and_a_second_name(stopped, capsys):
    before = contents(stopped)
    assert train("--resume-or-start", "mine", *SMALL, "--rule", "kp") == 2
    err = capsys.readouterr().err
    assert err == "wtref: flags contradict run 'mine': --rule is bp, not kp; leave them out, or choose another name\n"
    for flag, name in (("--resume", "mine"), ("--log-name", "mine"), ("--resume-or-start", ""), ("--resume-or-start", "a/b")):
        more = [flag, name] if name == "mine" else []
        assert train("--resume-or-start", name, *SMALL, *more) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert contents(stopped) == before and not Path("a").exists()


# --- another run, other data ------------------------------------------------------------------------------


def test_flags_that_contradict_the_run_are_refused(stopped, capsys):
    before = contents(stopped)
    assert train("--resume", "mine", *SMALL, "--rule", "kp", "--crop", "2", "--lr", "0.1") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "--rule is bp, not kp" in err and "--crop is 0, not 2" in err and "--lr" not in err
    assert contents(stopped) == before


def test_a_run_does_not_go_on_with_other_data(here, capsys):
    file = here / "data" / "digits" / "digits.npz"
    file.parent.mkdir(parents=True)
    original = (EMBEDDED / "digits" / "digits.npz").read_bytes()
    file.write_bytes(original)
    flags = [*TINY, "--data-dir", "data"]
    assert train("--log-name", "mine", *flags) == 0
    before = contents(Path("runs/mine"))
    with np.load(file) as arrays:
        images, labels = arrays["images"].copy(), arrays["labels"]
    images[700, 3, 3] ^= 1
    np.savez(file, images=images, labels=labels)
    capsys.readouterr()
    assert train("--resume", "mine") == 2
    err = capsys.readouterr().err
    assert err == "wtref: run 'mine': digits is not the data that it was started with\n"
    assert contents(Path("runs/mine")) == before
    file.write_bytes(original)
    assert train("--resume", "mine") == 0


@pytest.mark.parametrize("rule", RULES)
def test_the_check_of_a_checkpoint_leaves_no_gradients(rule):
    """Rank 0 alone makes the check, and processes sum up the gradients that they have."""
    config = Config(model="mlp", hidden=(6,), rule=rule, batch_size=400, epochs=1, dtype="float64", device="cpu")
    stopped, resumed = prepare(config), prepare(config)
    next(stopped.run())
    resuming.check_training(*resuming.state(stopped), resumed)
    for s in resumed.network.synapses:
        assert s.W_gradient is s.b_gradient is s.B_gradient is None


# --- the best ---------------------------------------------------------------------------------------------


def test_the_best_checkpoint_is_the_epoch_with_the_lowest_test_error():
    """A rate so high that the error goes up and down."""
    flags = "--model mlp --hidden 8 --batch-size 200 --epochs 12 --lr 0.8 --schedule constant --device cpu".split()
    assert train("--log-name", "mine", *flags) == 0
    errors = [record["test_error"] for record in Run("mine").metrics()]
    best = errors.index(min(errors)) + 1
    arrays, plain = checkpoints.read(Path("runs/mine/best.npz"))
    assert best < 12 and (plain["epoch"], plain["position"]) == (best, 0)
    assert plain["best"] == {"epoch": best, "test_error": min(errors)}
    last = checkpoints.read(Path("runs/mine/last.npz"))[1]
    assert last["epoch"] == 12 and last["best"] == plain["best"]


@pytest.mark.parametrize("rule", ["bp", "pfa", "dkp"])  # of which two keep more than B, or a B of another shape
def test_eval_of_the_best_checkpoint_gives_its_error(capsys, rule):
    flags = "--model mlp --hidden 8 --batch-size 200 --epochs 12 --lr 0.8 --schedule constant --device cpu".split()
    train("--log-name", "mine", *flags, "--rule", rule)
    capsys.readouterr()
    assert main("eval mine --checkpoint best --device cpu".split()) == 0
    lowest = min(record["test_error"] for record in Run("mine").metrics())
    assert f"error {lowest:.2f} %" in capsys.readouterr().out
