"""A run's folder: stopping and going on changes nothing, and no moment leaves half a file."""

import itertools
import json
import os
import re
import shutil
import signal

import numpy as np
import pytest

from wtref import datasets
from wtref.cli.main import main
from wtref.datasets.synthetic import load_synthetic
from wtref.errors import InputError, Unsaved
from wtref.runs import checkpoints, recovery, resuming
from wtref.runs.config import Config
from wtref.runs.folders import RUNS, free_name
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.training import Training

TIMES = ("seconds", "images_per_second")
MLP = "--model mlp --hidden 24 12 --norm before --batch-size 128 --epochs 4".split()
STEPS = 12  # of an epoch of these: 1,437 images, 128 at a time
DATA = {"shape": (8, 8, 1), "class_names": tuple("0123456789"), "sha256": ""}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(*flags):
    return main(["train", "--device", "cpu", *flags])


def at_call(monkeypatch, owner, name, call, what):
    """Do `what` before the call-th call of owner.name from now on, and only before that."""
    original, calls = getattr(owner, name), itertools.count(1)

    def watched(*args, **kwargs):
        if next(calls) == call:
            what()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, watched)


def ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def twice():
    """A second Ctrl-C does not wait for the end of the step."""
    ctrl_c()
    ctrl_c()


def checkpoint(name):
    """A run's last.npz without times: {entry: (dtype, shape, bytes)} and the plain values."""
    arrays, plain = checkpoints.read(RUNS / name / "last.npz")
    record = {k: v for k, v in (plain.pop("record") or {}).items() if k not in TIMES}
    return {key: (a.dtype, a.shape, a.tobytes()) for key, a in arrays.items()} | {"plain": {**plain, "record": record}}


def metrics(name):
    """A run's metrics as text, line by line, without times."""
    lines = (RUNS / name / "metrics.jsonl").read_text().splitlines()
    return [json.dumps({k: v for k, v in json.loads(line).items() if k not in TIMES}) for line in lines]


def plain(name):
    with np.load(RUNS / name / "last.npz") as file:
        return json.loads(str(file[checkpoints.PLAIN]))


def assert_same_outcome(a, b):
    assert metrics(a) == metrics(b)
    assert checkpoint(a) == checkpoint(b)
    assert Run(a).config() == Run(b).config()


# --- stop and go on ---------------------------------------------------------------------------------------

CASES = {
    "bp": ["--rule", "bp", "--nesterov"],
    "fa": ["--rule", "fa"],
    "brsf": ["--rule", "brsf"],
    "frsf": ["--rule", "frsf"],
    "wm": ["--rule", "wm", "--mirror-rows", "16"],
    "om": ["--rule", "om"],
    "wm output backprop": ["--rule", "wm", "--mirror-window", "3", "--output-backprop"],
    "fa after noise": ["--rule", "fa", "--noise-steps", "4"],
    "pfa": ["--rule", "pfa"],
    "dkp": ["--rule", "dkp"],
    "kp": ["--rule", "kp"],
    "dfa": ["--rule", "dfa", "--schedule", "step"],
    "float64": ["--rule", "kp", "--dtype", "float64", "--loss", "sigmoid"],
}
QUICK = ("wm", "kp")  # the rules with the most state
MARKED = [pytest.param(flags, id=case, marks=[] if case in QUICK else pytest.mark.slow) for case, flags in CASES.items()]


@pytest.mark.parametrize("flags", MARKED)
def test_interrupted_and_resumed_is_as_if_never_stopped(monkeypatch, flags):
    assert train(*MLP, *flags, "--log-name", "whole") == 0
    at_call(monkeypatch, Training, "step", 2 * STEPS + 5, ctrl_c)
    assert train(*MLP, *flags, "--log-name", "halves") == 130
    assert len(metrics("halves")) == 2
    assert (plain("halves")["epoch"], plain("halves")["position"]) == (2, 5)
    assert train("--resume", "halves") == 0
    assert len(metrics("whole")) == 4
    assert_same_outcome("whole", "halves")


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["wm --mirror-window 0.5", "kp"])
def test_a_residual_network_goes_on_as_if_never_stopped(monkeypatch, rule):
    data = load_synthetic(None, shape=(4, 4, 1), train=40, test=12)
    monkeypatch.setitem(datasets.IN_MEMORY, "digits", lambda folder: data)
    flags = f"--model resnet8 --rule {rule} --epochs 2 --batch-size 16".split()
    assert train(*flags, "--log-name", "whole") == 0
    at_call(monkeypatch, Training, "step", 5, ctrl_c)
    assert train(*flags, "--log-name", "halves") == 130
    assert train("--resume", "halves") == 0
    assert any(key.endswith("norm.running_var") for key in checkpoint("whole"))
    assert_same_outcome("whole", "halves")


MOMENTS = {  # when Ctrl-C comes, at which call, and (epoch, step) at which the run stops
    "in the first epoch": (Training, "step", 5, (0, 5)),
    "in an epoch's first step": (Training, "step", STEPS + 1, (1, 1)),
    "in an epoch's last step": (Training, "step", 2 * STEPS, (2, 0)),
    "while evaluating": (Training, "evaluate", 3, (3, 0)),
    "before saving": (Run, "save", 3, (3, 0)),
    "before writing the checkpoint": (resuming, "state", 3, (3, 0)),
    "while writing the checkpoint": (np, "savez", 3, (3, 0)),
    "between checkpoint and metrics": (Run, "write_metrics", 3, (3, 0)),
    "while writing the metrics": (json, "dumps", 9, (3, 0)),
}
BRSF = [*MLP, "--rule", "brsf"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """The folder of a run with the flags BRSF."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert train(*BRSF, "--log-name", "whole") == 0
    return folder / "runs/whole"


@pytest.mark.parametrize("owner, name, call, where", MOMENTS.values(), ids=MOMENTS)
def test_whatever_the_moment_of_ctrl_c(monkeypatch, never_stopped, capsys, owner, name, call, where):
    shutil.copytree(never_stopped, "runs/whole")
    at_call(monkeypatch, owner, name, call, ctrl_c)
    capsys.readouterr()
    assert train(*BRSF, "--log-name", "halves") == 130
    said = capsys.readouterr().err
    named = re.fullmatch(r"wtref: stopped in epoch (\d+), after step (\d+) of 12; all of it is saved in runs/halves; "
                         r"go on with: python run.py train --resume halves\n", said)  # fmt: skip
    epoch, step = int(named[1]) - 1, int(named[2])
    assert (plain("halves")["epoch"], plain("halves")["position"]) == (epoch, step)
    assert len(metrics("halves")) == epoch if epoch else not os.path.exists("runs/halves/metrics.jsonl")
    assert (epoch, step) == where
    assert train("--resume", "halves") == 0
    assert_same_outcome("whole", "halves")


@pytest.mark.slow
@pytest.mark.parametrize("owner, name, call, where", MOMENTS.values(), ids=MOMENTS)
def test_whatever_the_moment_of_a_second_ctrl_c(monkeypatch, never_stopped, owner, name, call, where):
    """Stopped at once, without saving: what was saved before is whole."""
    shutil.copytree(never_stopped, "runs/whole")
    at_call(monkeypatch, owner, name, call, twice)
    assert train(*BRSF, "--log-name", "halves") == 130
    assert not list(RUNS.glob("*/.*"))
    assert where[0] < 1 or plain("halves")["epoch"] >= where[0] - 1
    assert train("--resume", "halves") == 0
    assert_same_outcome("whole", "halves")


@pytest.mark.slow
def test_interrupted_twice(monkeypatch):
    wm = [*MLP, "--rule", "wm"]
    train(*wm, "--log-name", "whole")
    for step, flags in ((STEPS + 1, [*wm, "--log-name", "thirds"]), (2 * STEPS, ["--resume", "thirds"])):
        with monkeypatch.context() as patch:
            at_call(patch, Training, "step", step, ctrl_c)
            assert train(*flags) == 130
    assert (plain("thirds")["epoch"], plain("thirds")["position"]) == (3, 1)
    assert train("--resume", "thirds") == 0
    assert_same_outcome("whole", "thirds")


def test_resuming_a_finished_run_changes_nothing(here, capsys):
    train(*MLP, "--log-name", "done")
    before = contents(here)
    assert train("--resume", "done") == 0
    assert contents(here) == before
    assert "epoch 1/" not in capsys.readouterr().out.split("run: ")[2]


def test_flags_that_agree_with_the_run_are_welcome(monkeypatch):
    at_call(monkeypatch, Training, "step", STEPS + 1, ctrl_c)
    train(*MLP, "--rule", "kp", "--log-name", "mine")
    assert train("--resume", "mine", *MLP, "--rule", "kp", "--lr", "0.1") == 0
    assert len(metrics("mine")) == 4


def test_a_run_is_resumed_in_its_own_dtype_and_on_its_own_data(monkeypatch):
    at_call(monkeypatch, Training, "step", STEPS + 1, ctrl_c)
    train(*MLP, "--dtype", "float64", "--log-name", "mine")
    train("--resume", "mine")
    assert checkpoint("mine")["output.W"][:2] == (np.float64, (10, 12))


@pytest.mark.parametrize("flags", ["--rule kp", "--rule dfa --norm after", "--dtype float64"])
def test_eval_repeats_the_last_test_error(capsys, flags):
    train(*MLP, *flags.split(), "--log-name", "mine")
    last = json.loads(metrics("mine")[-1])
    capsys.readouterr()
    assert main(["eval", "mine", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines() == [
        "mine: last checkpoint, after 4 epochs and 0 steps",
        f"360 test images of digits: error {last['test_error']:.2f} %, loss {last['test_loss']:.4f} nats",
    ]


def test_eval_changes_no_file(here):
    train(*MLP, "--log-name", "mine")
    before = contents(here)
    main(["eval", "mine", "--device", "cpu"])
    assert contents(here) == before


# --- what is in the folder --------------------------------------------------------------------------------


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_metrics_have_a_line_per_epoch():
    train(*MLP, "--log-name", "mine")
    lines = Run.find("mine").metrics()
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    assert all(line["seconds"] > 0 and line["images_per_second"] > 0 for line in lines)
    assert all(0 < line["lr"] <= 0.1 and 0 < line["train_loss"] < 3 for line in lines)
    assert all(0 <= line[error] < 100 for line in lines for error in ("train_error", "test_error"))


def test_the_checkpoint_is_readable_without_wtref():
    train(*MLP, "--rule", "kp", "--log-name", "mine")
    with np.load(RUNS / "mine" / "last.npz", allow_pickle=False) as file:
        assert file["hidden1.W"].shape == (24, 64)
        assert file["hidden2.B"].shape == file["velocity.hidden2.B"].shape == (24, 12)
        assert "hidden1.B" not in file.files


UNUSUAL = Config(
    model="lenet", rule="wm", dataset="synthetic", data_dir="elsewhere", epochs=3, batch_size=7, lr=0.25,
    momentum=0.5, nesterov=True, weight_decay=0.0, schedule="step", warmup=0.3, milestones=(0.1, 0.2, 0.9),
    loss="sigmoid", norm="after", activation="tanh", hidden=(3, 4), stem="imagenet", seed=9, device="cpu",
    dtype="float64", mirror_window=2.5, mirror_rows=64, noise_steps=3, output_backprop=True, crop=2, flip=True, rotate=7.5, jitter=0.4, image_size=96,
    bad_images="skip", workers=3, save_every=7, tensorboard=True,
)  # fmt: skip


@pytest.mark.parametrize("config", [Config(), UNUSUAL], ids=["default", "unusual"])
def test_a_config_survives_its_file(config):
    Run.create(config, DATA, "cpu", "mine")
    again = Run.find("mine").config()
    assert again == config and hash(again) == hash(config)


def test_the_folder_names_the_versions():
    Run.create(Config(), DATA, "cpu", "mine")
    versions = json.loads((RUNS / "mine" / "config.json").read_text())["versions"]
    assert versions["numpy"] == np.__version__ and {"wtref", "python"} <= versions.keys()


def test_a_fresh_run_has_nothing_to_restore():
    run = Run.create(Config(model="mlp"), DATA, "cpu", "mine")
    fresh = prepare(Config(model="mlp", device="cpu"))
    assert recovery.restore(run, fresh) is False and fresh.epoch == 0
    assert run.metrics() == []


@pytest.mark.slow
def test_a_checkpoint_that_cannot_be_written_leaves_the_last_one(monkeypatch, capsys):
    savez, calls = np.savez, itertools.count(1)

    def full_disk(file, **arrays):
        if next(calls) == 3:
            file.write(b"PK half a zip file")
            raise OSError(28, "No space left on device")
        savez(file, **arrays)

    train(*MLP, "--log-name", "whole")
    monkeypatch.setattr(np, "savez", full_disk)
    capsys.readouterr()
    assert train(*MLP, "--log-name", "mine") == 1
    held = "runs/mine holds epoch 2 and 0 steps more"
    out, err = capsys.readouterr()
    assert "epoch 2/4" in out and "epoch 3/4" not in out, "an epoch is saved before it is told of"
    assert len(metrics("mine")) == 2
    assert err == f"wtref: cannot write runs/mine/last.npz: No space left on device; {held}\n"
    assert sorted(os.listdir("runs/mine")) == ["best.npz", "config.json", "last.npz", "metrics.jsonl", "previous.npz"]
    assert plain("mine")["epoch"] == 2
    assert train("--resume", "mine") == 0
    assert_same_outcome("whole", "mine")


@pytest.mark.parametrize("kind", ["absent", "folder", "link"])
def test_a_run_that_cannot_be_begun_leaves_what_was_there(here, monkeypatch, capsys, kind):
    """config.json does not fit on the disk any more: what was written before it is removed, a folder of the user's is not."""
    elsewhere, mine = here / "elsewhere", here / "runs" / "mine"
    if kind != "absent":
        (mine if kind == "folder" else elsewhere).mkdir(parents=True)
    if kind == "link":
        mine.parent.mkdir()
        mine.symlink_to(elsewhere)
    before = sorted(here.rglob("*"))

    def full_disk(path, value):
        (path.parent / "last.npz").write_bytes(b"")  # as a run that is imported has one
        raise Unsaved(f"cannot write {path}: No space left on device")

    monkeypatch.setattr("wtref.runs.run.write_json", full_disk)
    assert train(*MLP, "--log-name", "mine") == 1
    said = "wtref: cannot write runs/mine/config.json: No space left on device; no run was started\n"
    assert capsys.readouterr().err == said
    assert sorted(here.rglob("*")) == (before if kind != "absent" else [here / "runs"]) and mine.is_symlink() == (kind == "link")


def test_a_run_that_cannot_be_begun_on_a_disk_that_turned_read_only(here, monkeypatch, capsys):
    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("wtref.files.open", read_only, raising=False)
    monkeypatch.setattr("pathlib.Path.unlink", read_only)
    monkeypatch.setattr("pathlib.Path.rmdir", read_only)
    assert train(*MLP, "--log-name", "mine") == 1
    assert capsys.readouterr().err == "wtref: cannot write runs/mine/config.json: Read-only file system; no run was started\n"


@pytest.mark.parametrize("call", [2, 4])
def test_a_disk_that_turns_read_only_ends_a_training_in_one_line(monkeypatch, capsys, call):
    """As keep_as makes the previous checkpoint, and as it makes the best one."""

    def read_only(*args, **kwargs):
        raise OSError(30, "Read-only file system")

    def turns():
        monkeypatch.setattr("wtref.files.open", read_only, raising=False)
        monkeypatch.setattr("wtref.runs.checkpoints.open", read_only, raising=False)
        for name in ("link", "replace", "unlink"):
            monkeypatch.setattr(os, name, read_only)

    at_call(monkeypatch, checkpoints, "keep_as", call, turns)
    assert train(*MLP, "--log-name", "mine") == 1
    assert re.fullmatch(r"wtref: cannot write runs/mine/(previous|best).npz: Read-only file system; "
                        r"runs/mine holds epoch [12] and 0 steps more\n", capsys.readouterr().err)  # fmt: skip


# --- names ------------------------------------------------------------------------------------------------


def test_free_names_count_from_one(here):
    assert free_name("a") == "a-1"
    for taken in ("a-1", "a-3", "b-2"):
        (here / "runs" / taken).mkdir(parents=True)
    assert free_name("a") == "a-2" and free_name("b") == "b-1"


def test_a_run_without_a_name_is_called_after_what_it_is():
    config = Config(model="mlp", rule="kp")
    assert [Run.create(config, DATA, "cpu").name for _ in range(3)] == [f"mlp-kp-digits-{n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("name", ["a", "a-1", "A_b.c", "2026", "bp.v2", "é"])
def test_a_plain_name_is_kept(here, name):
    Run.create(Config(), DATA, "cpu", name)
    assert (here / "runs" / name / "config.json").is_file()


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".", ".a", "-x", "a b", "a\n", "a\0"])
def test_any_other_name_is_refused_and_makes_nothing(here, name):
    with pytest.raises(InputError, match="not a plain file name"):
        Run.create(Config(), DATA, "cpu", name)
    assert not list(here.rglob("*"))


def test_a_name_too_long_for_the_file_system_is_refused():
    with pytest.raises(InputError):
        Run.create(Config(), DATA, "cpu", "a" * 300)


def test_a_taken_name_is_refused_whatever_is_there(here):
    (here / "runs" / "mine").mkdir(parents=True)
    (here / "runs" / "mine" / "notes.txt").write_text("keep")
    with pytest.raises(InputError, match="runs/mine exists, but holds no run; .*--log-name"):
        Run.create(Config(), DATA, "cpu", "mine")
    assert contents(here) == {"runs/mine/notes.txt": b"keep"}
    Run.create(Config(), DATA, "cpu", "yours")
    with pytest.raises(InputError, match="'yours' exists.*--resume yours.*--log-name"):
        Run.create(Config(), DATA, "cpu", "yours")


def test_finding_a_run_that_is_not_there_names_those_that_are(here):
    with pytest.raises(InputError, match="no run named 'x' in runs/; there are: none yet"):
        Run.find("x")
    for name in ("b", "a"):
        Run.create(Config(), DATA, "cpu", name)
    (here / "runs" / "no-run").mkdir()
    with pytest.raises(InputError, match="there are: a, b$"):
        Run.find("x")
