"""A file of the user's own rules, models and data sets: `--plugin mine.py` on the command line, and what a run remembers of it."""

import json
import subprocess
import sys

import numpy as np
import pytest

from launching import RUN_PY
from wtref import plugins
from wtref.cli.main import main
from wtref.datasets import IN_MEMORY, load
from wtref.models import MODELS
from wtref.relatives import RULES
from wtref.runs import colours
from wtref.runs.config import Config
from wtref.runs.prepare import make_rule
from wtref.runs.run_files import read_about

TEXT = """
import numpy as np
import wtref

@wtref.rule("signs")
class SameSigns(wtref.Rule):
    def __init__(self, rng=None, c=0.001):
        super().__init__(rng)
        self.c = c

    def learn(self, s, sgd):
        super().learn(s, sgd)
        if s.B is not None:
            s.B -= self.c * s.device.xp.sign(s.W_gradient.T)

@wtref.rule("copies")
class Copies(wtref.Rule):
    def between_steps(self, s, sgd, step):
        s.B[...] = s.W.T

@wtref.rule("switched")
class Switched(wtref.Rule):
    def __init__(self, rng=None, on=False):
        super().__init__(rng)

@wtref.rule("mirroring")
class Mirroring(wtref.WeightMirror):
    def __init__(self, rng=None, rows=64, window=5, seed=0, c=1):
        super().__init__(rng, rows, window, seed)
        self.c = c

@wtref.rule("averaging")
class Averaging(wtref.Rule):
    def __init__(self, rng=None, window=5, seed=0):
        super().__init__(rng)
        self.window, self.seed = window, seed

@wtref.model("two")
def two(shape, classes, options):
    pixels = shape[0] * shape[1] * shape[2]
    return wtref.Flatten(), wtref.Linear("a", pixels, 20), wtref.ReLU(), wtref.Linear("b", 20, classes)

@wtref.dataset("dots")
def dots(folder):
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=120)
    X = rng.standard_normal((120, 6)) + 2 * y[:, None]
    return (X[:100], y[:100]), (X[100:], y[100:])
"""
OWN = "--plugin mine.py --model two --dataset dots --device cpu --epochs 2".split()


@pytest.fixture(autouse=True)
def mine(here, registries):
    """The plug-in's path."""
    (here / "mine.py").write_text(TEXT)
    return here / "mine.py"


def forget():
    """As if this process had run no plug-in."""
    plugins.loaded.clear()
    for registry in (RULES, MODELS, IN_MEMORY):
        for name in {"signs", "copies", "switched", "mirroring", "averaging", "two", "dots"} & registry.keys():
            del registry[name]


def test_an_own_rule_trains_an_own_network_on_own_data_with_its_option(here, said):
    assert "by signs on dots" in said("train", *OWN, "--rule", "signs", "--rule-option", "c=0.01", "--log-name", "a")
    said("train", *OWN, "--rule", "signs", "--rule-option", "c=0.5", "--log-name", "b")
    errors = [(here / "runs" / name / "metrics.jsonl").read_text().splitlines()[-1] for name in "ab"]
    angles = [json.loads(line)["matrix_angles"]["b"] for line in errors]
    assert abs(angles[0] - angles[1]) > 0.1  # the option reached the rule
    about = read_about(here / "runs" / "a" / "config.json")
    assert about["config"].plugin == str(here / "mine.py") and len(about["versions"]["plugin"]) == 12


def test_workers_that_compare_run_the_plugin_too(here, said):
    flags = ["--rules", "signs", "kp", "--seeds", "1", "--jobs", "2", "--log-name", "report", "--rule-option", "c=0.01"]
    table = said("compare", *OWN, *flags)
    assert " signs  " in table and "    KP  " in table
    assert read_about(here / "runs" / "report-signs-0" / "config.json")["config"].rule_option == ("c=0.01",)
    assert read_about(here / "runs" / "report-kp-0" / "config.json")["config"].rule_option is None
    assert (here / "runs" / "report" / "test-error.png").exists()


def test_an_own_rule_has_a_colour_that_no_other_rule_has():
    found = colours.palette({"fa": "fa", "mine": "mine", "yours": "yours", "kp": "kp"})
    assert len(set(found.values())) == 4
    assert {found["mine"].color, found["yours"].color}.isdisjoint(colours.COLOURS.values())
    assert colours.palette({"mine-run": "fa"})["mine-run"].color == colours.OTHERS[0]


def test_an_own_rule_is_audited(here, capsys):
    assert main("audit --plugin mine.py --rules signs copies".split()) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["signs", "no"], ["copies", "yes"]] and "NOT AS DECLARED" in lines[2]


def test_a_run_goes_on_only_with_the_plugin_named_and_unchanged(here, mine, said, refused):
    whole = said("train", *OWN, "--rule", "signs", "--log-name", "mine")
    forget()
    assert f"which is not run unless it is named: give --plugin {mine}" in refused("train", "--resume", "mine")
    assert RULES.keys().isdisjoint({"signs"})  # the folder's word alone ran nothing
    assert "mine  signs  two    dots  2/2" in said("runs")
    assert "not run unless it is named" in refused("eval", "mine")
    (here / "elsewhere.py").write_text(TEXT)
    assert "already finished" in said("train", "--resume", "mine", "--plugin", "elsewhere.py")
    assert "test images of dots" in said("eval", "mine", "--plugin", "mine.py")
    forget()
    was = read_about(here / "runs" / "mine" / "config.json")["versions"]["plugin"]
    mine.write_text(TEXT.replace("0.001", "0.002"))
    line = refused("train", "--resume", "mine", "--plugin", "mine.py")
    assert f"the plug-in {mine} of checksum {was}, found {mine} of checksum {plugins.loaded[str(mine)]}" in line
    assert "restore the text that it had, or start a new run" in line
    compare = ["compare", *OWN, "--rules", "signs", "--seeds", "1", "--jobs", "1", "--log-name", "mine"]
    assert whole and "holds a run" in refused(*compare)


def test_a_comparison_is_not_continued_with_a_changed_plugin(mine, said, refused):
    command = ["compare", *OWN, "--rules", "signs", "--seeds", "1", "--jobs", "1", "--log-name", "report"]
    said(*command)
    assert "3 of 3" not in said(*command)
    forget()
    mine.write_text(TEXT + "\n# another\n")
    assert "restore the text that it had" in refused(*command)


@pytest.mark.parametrize(
    "text, words",
    [
        (None, "--plugin mine.py cannot be read: No such file"),
        ("import wtref\n\nx = unknown\n", "--plugin mine.py, line 3: NameError: name 'unknown' is not defined"),
        ("import sys\nsys.exit('not today')\n", "--plugin mine.py, line 2: SystemExit: not today"),
        ("raise SystemExit\n", "--plugin mine.py, line 1: SystemExit"),
        ("x = (\n", "--plugin mine.py, line 1: SyntaxError: '(' was never closed"),
        ("x = 1\n", "--plugin mine.py registers nothing; put @wtref.rule('name') before a class in it"),
        ("import wtref\n@wtref.rule('kp')\nclass Mine(wtref.Rule): ...\n", "there is a rule named 'kp' in wtref; choose another name"),
        ("import wtref\n@wtref.rule('a b')\nclass Mine(wtref.Rule): ...\n", "a rule's name consists of letters, digits"),
        ("import wtref\n@wtref.rule('mine')\nclass Mine: ...\n", "@wtref.rule('mine') is for a subclass of wtref.Rule, found <class"),
        (
            "import wtref\n@wtref.rule('mine')\nclass Mine(wtref.Rule):\n    def __init__(self): ...\n",
            "the constructor of rule 'mine' takes (), right would be def __init__(self, rng=None, c=0.1), rng first, with a default for all but rng",
        ),
        (
            "import wtref\n@wtref.rule('mine')\nclass Mine(wtref.Rule):\n    def __init__(self, rng, c): ...\n",
            "the constructor of rule 'mine' takes (rng, c), right would be def __init__(self, rng=None, c=0.1)",
        ),
        (
            "import wtref\n@wtref.rule('mine')\nclass Mine(wtref.Rule):\n    def __init__(self, width=3): ...\n",
            "the constructor of rule 'mine' takes (width=3), right would be def __init__(self, rng=None, c=0.1), rng first",
        ),
        ("import wtref\n@wtref.model('res18')\ndef f(): ...\n", "there is a model named 'res18' in wtref"),
        ("import wtref\n@wtref.dataset('folder')\ndef f(): ...\n", "there is a data set named 'folder' in wtref"),
    ],
)
def test_a_plugin_that_cannot_be_is_one_line(mine, refused, text, words):
    mine.unlink() if text is None else mine.write_text(text)
    assert words in refused("train", "--plugin", "mine.py")
    assert not plugins.loaded


@pytest.mark.parametrize(
    "flags, words",
    [
        ("--rule signs --rule-option d=1", "rule 'signs' has no option 'd'; it has: c"),
        ("--rule signs --rule-option 0.1", "--rule-option must be a name and a value, such as c=0.1, found '0.1'"),
        ("--rule signs --rule-option c=1 c=2", "--rule-option c is given twice; leave one of them out"),
        ("--rule signs --rule-option c=1 --rule-option c=2", "--rule-option c is given twice; leave one of them out"),
        ("--rule kp --rule-option c=1", "rule 'kp' has no option 'c'; it has: none"),
        ("--rule signs --rule-option c=little", "--rule-option c must be a number, as its default 0.001 is, found 'little'"),
        ("--rule signs --rule-option c=True", "--rule-option c must be a number, as its default 0.001 is, found True"),
        ("--rule switched --rule-option on=false", "--rule-option on must be True or False, as its default False is, found 'false'"),
        ("--rule switched --rule-option on=1", "--rule-option on must be True or False, as its default False is, found 1"),
        ("--rule wm --rule-option rows=-5", "--rule-option rows: rule 'wm' takes it from --mirror-rows; give that instead"),
        ("--rule wm --mirror-rows 20 --rule-option rows=10", "--rule-option rows: rule 'wm' takes it from --mirror-rows; give that instead"),
        ("--rule wm --rule-option window=0", "--rule-option window: rule 'wm' takes it from --mirror-window; give that instead"),
        ("--rule om --rule-option seed=-1", "--rule-option seed: rule 'om' takes it from --seed; give that instead"),
        ("--rule mirroring --rule-option c=1 rows=many", "--rule-option rows: rule 'mirroring' takes it from --mirror-rows; give that"),
        ("--rule aa --rule-option window=2", "rule 'aa' has no option 'window'; it has: none"),
        ("--rule pfa --rule-option width=0", "width must be an integer of at least 1, found 0"),
        ("--rule pfa --rule-option width=1.5", "width must be an integer of at least 1, found 1.5"),
        ("--rule pfa --rule-option width=1e999", "width must be an integer of at least 1, found inf"),
        ("--rule signs --rule-option c={[]:1}", "--rule-option c must be a number, as its default 0.001 is, found '{[]:1}'"),
        ("--rule signs --rule-option c=" + 20_000 * "-" + "1", "--rule-option c must be a number, as its default 0.001 is, found '---"),
        ("--rule sings", "unknown rule 'sings', did you mean 'signs'? choose from: bp,"),
    ],
)
def test_options_that_a_rule_does_not_have_are_one_line(refused, flags, words):
    assert words in refused("train", *OWN, *flags.split())


def test_a_mirror_of_one_s_own_has_the_run_s_seed_rows_and_window(here, said):
    flags = "--rule mirroring --seed 3 --mirror-rows 7 --mirror-window 0.5 --rule-option c=2 --log-name mine"
    said("train", *OWN, *flags.split())
    rule = make_rule(read_about(here / "runs" / "mine" / "config.json")["config"])
    assert (rule.seed, rule.rows, rule.window, rule.c) == (3, 7, 0.5, 2)
    assert make_rule(Config(rule="mirroring")).rows == 64  # its own default, as no flag is given
    rule = make_rule(Config(rule="averaging", rule_option=("window=9",), seed=3))
    assert (rule.seed, rule.window) == (3, 9), "what is no mirror has a window of its own"


def test_an_option_that_none_of_the_compared_rules_has_is_one_line(refused):
    words = "none of the rules signs, kp, frozen has an option 'd'"
    assert words in refused("compare", *OWN, "--rules", "signs", "kp", "--rule-option", "d=1")
    words = "--rule-option rows: rule 'wm' takes it from --mirror-rows; give that instead"
    assert words in refused("compare", *OWN, "--rules", "signs", "wm", "--rule-option", "rows=10")


def test_a_plugin_finds_the_modules_beside_it_from_any_folder(here):
    (here / "sub").mkdir()
    (here / "sub" / "beside.py").write_text("c = 0.3\n")
    (here / "sub" / "mine.py").write_text("from beside import c\nassert c == 0.3\n" + TEXT)
    command = [sys.executable, RUN_PY, "audit", "--plugin", "sub/mine.py", "--rules", "signs"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "") and "signs" in done.stdout


WRONG_DATA = {
    "X[0, 0] = np.nan": "dots, training images: nan at image 0, right would be finite numbers of at most 3.4e+38",
    "X[119, 0] = np.inf": "dots, test images: inf at image 19, right would be finite numbers",
    "y[:] = 1": "dots: all training labels are 1, right would be two classes or more",
    "y[119] = 3": "dots, test images: label 3 at image 19, right would be 0 to 2",
    "y[0] = -1": "dots, training images: label -1 at image 0, right would be 0 to 2",
    "X, y = X[:100], y[:100]": "dots, test images: there are none in an array of shape (0, 1, 6, 1)",
    "X = X.astype(int)": "dots, training images: are int64 of shape (100, 1, 6, 1), right would be uint8 or floats",
    "return X, y, 1": "dots: its function must return ((X, y), (Xt, yt)), found tuple",
    "return None": "dots: its function must return ((X, y), (Xt, yt)), found NoneType",
}


@pytest.mark.parametrize("fault", WRONG_DATA)
def test_own_data_that_cannot_be_are_one_line(mine, refused, fault):
    mine.write_text(TEXT.replace("    return (X[", f"    {fault}\n    return (X["))
    assert WRONG_DATA[fault] in refused("train", *OWN, "--rule", "kp")


def test_bytes_of_an_own_data_set_are_normalised_as_other_pictures_are():
    X = np.arange(48, dtype=np.uint8).reshape(2, 2, 4, 3)
    plugins.dataset("pictures")(lambda folder: ((X, np.array([0, 1])), (X, np.array([0, 1]))))
    data = load("pictures")
    assert data.levels == 255 and np.allclose(data.mean, X.mean(axis=(0, 1, 2)))


def test_an_own_network_and_rule_are_timed_without_pytorch(said):
    out = said(*"bench steps --plugin mine.py --models two --rules signs kp --batches 4 --repeats 1 --shape 4 4 1 --eager".split())
    assert "two 4x4x1 signs batch 4" in out and "two 4x4x1 kp batch 4" in out
