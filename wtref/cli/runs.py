"""The commands for runs that exist: eval, predict, figures, runs, export and import."""

import contextlib
import sys
from dataclasses import replace

from wtref import datasets
from wtref.cli.arguments import add_config, add_run
from wtref.errors import InputError
from wtref.plugins import BUILT_IN
from wtref.runs import drawing, figures, overview, predicting, run_files, session
from wtref.runs.effects import check_effects
from wtref.runs.folders import reserved
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.runs.trained import Trained
from wtref.text import printable, wrapped


def add_commands(command):
    add_eval(command("eval", evaluate))
    add_predict(command("predict", predict))
    add_figures(command("figures", draw))
    command("runs", list_runs)
    add_export(command("export", export))
    add_import(command("import", import_))


def add_eval(parser):
    add_run(parser)
    add_config(parser, only=("dataset", "data_dir", "plugin"), dataset="the run's", data_dir="the run's")


def evaluate(args, given):
    """Test a run's network on test images, its own data set's or another's."""
    trained = Trained(Run.find(args.name), args.checkpoint, args.device)
    config = replace(trained.config, **given)
    check_effects(config, (config.rule,), given)
    feed = trained.open_feed(config)
    datasets.warn(feed)
    loss, error, count = trained.evaluate(feed)
    print(trained.checkpoint)
    tested = f"{count} test images of {config.dataset}"
    print(wrapped(f"{tested}: error {error:.2f} %, loss {loss:.4f} nats"))
    for line in feed.left_out:
        print(wrapped(printable(line)))
    session.say_skipped(feed.skipped)


def add_predict(parser):
    add_run(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files: JPEG, PNG, TIFF, WebP and others")
    add_config(parser, only=("plugin",))


def predict(args, given):
    """Print the five likeliest classes of each image, by a run's network."""
    predictor = predicting.Predictor(Run.find(args.name), args.checkpoint, args.device)
    for number, path in enumerate(args.images):
        likeliest = predictor.top(path, 5)
        if number == 0:  # nothing is printed where the first image cannot be read
            print(predictor.checkpoint)
        print(printable(path))
        for name, probability in likeliest:
            print(f"  {100 * probability:6.2f} %  {printable(name)}")


def add_figures(parser):
    runs = "runs in runs/ (the pictures go to the first one's folder), or a metrics.jsonl"
    parser.add_argument("names", nargs="+", metavar="NAME", help=runs)


def draw(args, given):
    """Draw several runs, or a metrics file of a comparison, in one picture: errors and angles per epoch and layer."""
    if args.names[0].endswith(".jsonl"):
        if len(args.names) > 1:
            raise InputError(f"figures draws one metrics file at a time, found {len(args.names)} names")
        lines = [{**line, "curve": line["rule"]} for line in run_files.read_results(args.names[0])]
        place = reserved("figures")
    else:
        found = [Run.find(name) for name in args.names]
        lines, place = _lines_of(found), contextlib.nullcontext(found[0].folder)
    if not drawing.available():
        return 1
    with place as folder:
        for path in figures.draw_comparison(lines, folder):
            print(f"picture: {path}")


def _lines_of(found):
    """The metrics of several runs, with the rule as "curve" where they differ in rules and seeds alone, else with the run's name."""
    configs = [run.config() for run in found]
    one_recipe = all(session.recipe(config) == session.recipe(configs[0]) for config in configs)
    by_rule = one_recipe and len({(config.rule, config.rule_option) for config in configs}) == len({config.rule for config in configs})
    lines = [{**line, "curve": line["rule"] if by_rule else run.name} for run in found for line in run.lines()]
    if not lines:
        raise InputError(f"no finished epochs to draw in: {', '.join(run.name for run in found)}")
    return lines


def list_runs(args, given):
    """Print a table of all runs in runs/: rule, model, data, epoch, best error, state."""
    print(overview.table())


def add_export(parser):
    add_run(parser)
    parser.add_argument("--to", metavar="FORM", choices=["torch"], default="torch", help="torch (default: torch)")
    feedback = "also the feedback weights, as LAYER.weights.B (n_in, n_out), by which errors then return in PyTorch too"
    parser.add_argument("--feedback", action="store_true", help=feedback)
    add_config(parser, only=("plugin",))


def export(args, given):
    """Write a run's network in another program's form: a PyTorch state_dict."""
    from wtref.oracle import states

    trained = Trained(Run.find(args.name), args.checkpoint, args.device)
    path = trained.run.folder / "torch.pt"
    states.export(trained.network, trained.config, trained.images, path, args.feedback)
    if trained.config.model not in BUILT_IN["model"]:
        print(f"PyTorch state_dict: {path}")
        return
    print(f"PyTorch state_dict: {path}; in Python:")
    print("import torch", "from wtref.models import Options", "from wtref.oracle.networks import build", sep="\n")
    shape, classes = trained.images.shape, len(trained.images.class_names)
    print(wrapped(f"network = build({trained.config.model!r}, {shape}, {classes}, {trained.config.model_options})"))
    print(f"network.load_state_dict(torch.load({str(path)!r}))")


def add_import(parser):
    parser.add_argument("file", metavar="FILE", help="a state_dict, as written by export or torch.save; with its B where it has them")
    parser.add_argument("--log-name", metavar="NAME", help="the run's folder in runs/ (default: a free name)")
    add_config(parser)


def import_(args, given):
    """Start a run from a PyTorch state_dict, for `eval`, or for `train --resume` to go on with."""
    from wtref.oracle import states

    file = states.read(args.file)
    config = states.config_of(file, given)
    check_effects(config, (config.rule,), vars(args))
    training = prepare(config)
    states.load(training, file)
    created = Run.create(config, training.feed.about(), training.device.name, args.log_name, training)
    for remark in states.remarks(file, training):
        print(f"wtref: {printable(remark)}", file=sys.stderr)
    print(f"run: {created.folder}")
