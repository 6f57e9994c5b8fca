"""The line of a terminal about the work in progress, and its absence elsewhere."""

import contextlib
import io
import re
import subprocess
import sys

import pytest

import terminal
from launching import MLP, RUN_PY, write_program
from wtref import progress
from wtref.cli.streams import guarded
from wtref.progress import ERASE, StatusLine, clock, left

needs_terminals = pytest.mark.skipif(terminal.pty is None, reason="no pseudo-terminals")


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


@pytest.fixture
def screen(monkeypatch):
    """A terminal of 30 columns."""
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    return Screen()


@contextlib.contextmanager
def shown_on(stream):
    """A context in which standard output and error are this stream, as they are for a command."""
    with contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream), guarded():
        yield


def test_the_line_is_rewritten_cut_to_the_terminal_and_erased(screen):
    line = StatusLine(screen)
    line.show("first")
    line.show("x" * 50)
    line.erase()
    line.erase()
    assert screen.getvalue() == f"{ERASE}first{ERASE}{'x' * 29}{ERASE}"


def test_what_is_printed_takes_the_lines_place(screen):
    with shown_on(screen):
        progress.show("working")
        print("a result")
        progress.show("working on")
        print("a complaint", file=sys.stderr)
        progress.show("nearly done")
    assert screen.getvalue() == (
        f"{ERASE}working{ERASE}a result\n{ERASE}working on{ERASE}a complaint\n{ERASE}nearly done{ERASE}"
    )  # fmt: skip


def test_an_update_costs_nothing_within_a_tenth_of_a_second(screen, monkeypatch):
    now, calls = [100.0], []
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with shown_on(screen):
        for seconds in (0.0, 0.05, 0.04, 0.02, 0.09):
            now[0] += seconds
            progress.update(lambda: calls.append(now[0]) or "text")
    assert calls == pytest.approx([100.0, 100.11])


@pytest.mark.parametrize("stream, term", [(io.StringIO(), "xterm"), (Screen(), "dumb")])
def test_elsewhere_there_is_no_line(monkeypatch, stream, term):
    monkeypatch.setenv("TERM", term)
    with shown_on(stream):
        assert not progress.shown()
        progress.show("text")
        progress.update(lambda: pytest.fail("called in vain"))
        assert list(progress.each([1, 2])) == [1, 2]
    assert stream.getvalue() == ""


def test_each_names_the_item_and_the_time_left(screen, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with shown_on(screen):
        for _ in progress.each(["a", "b", "c"], "item {}".format):
            now[0] += 40
    assert terminal.passing(screen.getvalue()) == ["item a  1/3", "item b  2/3  1:20 left", "item c  3/3  0:40 left"]


def test_stages_of_an_item_leave_its_line(screen):
    with shown_on(screen):
        for _ in progress.each(["a"]):
            progress.stage("reading digits")
        progress.stage("reading mnist")
    assert terminal.passing(screen.getvalue()) == ["a  1/1", "reading mnist"]


def test_times_in_words():
    assert [clock(seconds) for seconds in (0, 5.4, 59.7, 70, 3600, 7384)] == ["0:00", "0:05", "1:00", "1:10", "1:00:00", "2:03:04"]
    assert left(0, 10, 3.0) == "" and left(4, 10, 40.0) == "  1:00 left"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def times_removed(text):
    return re.sub(r" +[\d.,]+( s)?$", "", text, flags=re.MULTILINE)


@needs_terminals
@pytest.mark.slow
def test_a_training_shows_its_steps_on_a_terminal_alone(here):
    flags = ["train", *MLP, "--epochs", "40", "--rule", "kp"]
    code, written = terminal.on_terminal(*flags, "--log-name", "a")
    steps = [text for text in terminal.passing(written) if text.startswith("epoch ")]
    assert code == 0 and steps and all(re.fullmatch(r"epoch \d+/40  step \d+/45(  [\d,]+ images/s)?(  \d:\d\d left)?", text) for text in steps)
    assert any("images/s" in text and "left" in text for text in steps)
    assert written.startswith(ERASE), "it says what it is at before it has read the data"
    done = subprocess.run([sys.executable, RUN_PY, *flags, "--log-name", "a2"], capture_output=True, text=True)
    assert done.stderr == "" and not re.search(r"[\r\x1b]", done.stdout)
    assert times_removed(terminal.lasting(written)) == times_removed(done.stdout.replace("runs/a2", "runs/a"))


# The line is rewritten long before the first run is finished, on however fast a machine.
WATCHED = "from wtref.cli.main import main\nfrom wtref.runs import jobs\njobs.LOOK = 0.01\nraise SystemExit(main())\n"


@needs_terminals
@pytest.mark.slow
def test_a_comparison_shows_the_epochs_of_all_its_runs(here):
    flags = [*MLP, "--epochs", "20", "--rules", "bp", "--seeds", "2", "--jobs", "2"]
    code, written = terminal.on_terminal("compare", *flags, program=write_program(WATCHED))
    shown = [text for text in terminal.passing(written) if text.startswith("training ")]
    assert code == 0 and shown and all(re.fullmatch(r"training 4 runs  epoch \d+/80(  \d:\d\d left)?", text) for text in shown)
    assert all(len(line) <= 80 for line in terminal.lasting(written).splitlines())
    code, written = terminal.on_terminal("compare", *MLP, "--epochs", "30", "--rules", "bp", "--seeds", "1", "--jobs", "1")
    assert code == 0 and re.search(r"run 2/2  epoch \d+/30  step ", written)


@needs_terminals
@pytest.mark.slow
@pytest.mark.parametrize(
    "command, wanted",
    [
        ("decays --model mlp --hidden 4 --epochs 1 --seeds 1", "weight decay 0.0005, kp seed 0  2/10  "),
        ("constants --models mlp --steps 2", "mlp, norm before, lr 0.01, batch 128  2/10  "),
        ("audit", "fa  2/"),
        ("bench loader --models mlp --rules bp kp --repeats 1", "mlp kp batch 32  2/2  "),
    ],
)
def test_long_commands_say_what_they_are_at_and_how_much_is_left(here, command, wanted):
    code, written = terminal.on_terminal(*command.split())
    found = [text for text in terminal.passing(written) if text.startswith(wanted)]
    assert code in (0, 1) and found and (found[0].endswith(" left") or command == "audit")
