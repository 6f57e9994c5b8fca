"""What each command of the command line does, one function each; cli.py reads their arguments."""

import shlex
import sys
from dataclasses import replace

from wtref import datasets
from wtref.bench import goals as benching
from wtref.bench import gpu_report, scaling
from wtref.datasets import fetch
from wtref.device import open_device
from wtref.errors import InputError, check_choice
from wtref.models import MODELS
from wtref.runs import compare as comparing
from wtref.runs import figures, predicting, stored
from wtref.runs import reproduce as reproducing
from wtref.runs import run as runs
from wtref.runs import session as running
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.folders import free_folder
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.runs.tensorboard import check_installed
from wtref.runs.trained import Trained
from wtref.studies import audit as auditing
from wtref.studies import decays
from wtref.studies import mirror_constants as studying
from wtref.text import printable


def compare(args, given):
    """The same network under several rules and seeds, as a table and pictures."""
    config = Config(**{**comparing.DEFAULTS, **given})
    check_effects(config, args.rules, vars(args))
    return comparing.run(config, args.rules, args.seeds, args.jobs)


def train(args, given):
    """Train one network by one rule, in a folder of its own under runs/."""
    if args.resume is not None and args.log_name is not None:
        extra = f"leave --log-name {args.log_name} out"
        raise InputError(f"--resume goes on under the run's own name, {args.resume}; {extra}")
    run = Run.find(args.resume) if args.resume is not None else None
    config = running.resumed_config(run, given) if run else Config(**given)
    check_effects(config, (config.rule,), vars(args))
    if config.tensorboard:
        check_installed()
    return running.train(config, run, args.log_name, args.group)


def reproduce(args, given):
    """One of the paper's comparisons: all its rules and seeds, then a report; given again, it does what is left."""
    command = f"python run.py {' '.join(map(shlex.quote, args.words))}"
    return reproducing.reproduce(args.name, args.rules, args.seeds, given.pop("epochs", None), command, given, args.group)


def evaluate(args, given):
    """Test a run's network on test images, its own data set's or another's."""
    trained = Trained(Run.find(args.name), args.checkpoint, args.device)
    feed = trained.open_feed(replace(trained.config, **given))
    datasets.warn(feed)
    loss, error, count = trained.evaluate(feed)
    print(f"{args.name}: {args.checkpoint} checkpoint, after {trained.epoch} epochs and {trained.position} steps")
    tested = f"{count} test images of {given.get('dataset', trained.config.dataset)}"
    print(f"{tested}: error {error:.2f} %, loss {loss:.4f} nats")
    for line in feed.left_out:
        print(line)
    running.say_skipped(feed.skipped)


def predict(args, given):
    """The five likeliest classes of each image, by a run's network."""
    run = Run.find(args.name)
    predictor = predicting.Predictor(run, args.checkpoint, args.device)
    for path in args.images:
        likeliest = predictor.top(path, 5)
        print(printable(path))
        for name, probability in likeliest:
            print(f"  {100 * probability:6.2f} %  {printable(name)}")


def list_runs(args, given):
    """A table of all runs in runs/: rule, model, data, epoch, best error, state."""
    print(runs.table())


def draw(args, given):
    """Several runs, or a metrics file of compare or reproduce, in one picture: errors and angles per epoch and layer."""
    if args.names[0].endswith(".jsonl"):
        if len(args.names) > 1:
            raise InputError(f"figures draws one metrics file at a time, found {len(args.names)} names")
        lines = [{**line, "curve": line["rule"]} for line in stored.read_results(args.names[0])]
        folder = free_folder("figures")
    else:
        lines, folder = _lines_of([Run.find(name) for name in args.names])
    for path in figures.draw_comparison(lines, folder):
        print(f"picture: {path}")


def _lines_of(found):
    """The metrics of several runs, by rule where they differ in rules and seeds alone, else by name; and a folder."""
    recipes = {(run.config().rule, replace(run.config(), seed=0)) for run in found}
    by_rule = len(recipes) == len({rule for rule, _ in recipes})  # runs of one rule differ in their seeds alone
    lines = [{**line, "curve": line["rule"] if by_rule else run.name} for run in found for line in run.lines()]
    if not lines:
        raise InputError(f"no finished epochs to draw in: {', '.join(run.name for run in found)}")
    return lines, found[0].folder


def export(args, given):
    """Write a run's network in another program's form: a PyTorch state_dict."""
    from wtref.oracle import states as torch_state

    trained = Trained(Run.find(args.name), args.checkpoint, args.device)
    path = trained.run.folder / "torch.pt"
    torch_state.export(trained.network, trained.config, trained.images, path)
    print(f"PyTorch state_dict of wtref.oracle.networks.build({trained.config.model!r}, ...): {path}")


def import_(args, given):
    """Start a run from a PyTorch state_dict; evaluate it, or train it on with --resume."""
    from wtref.oracle import states as torch_state

    file = torch_state.read(args.file)
    config = torch_state.config_of(file, given)
    check_effects(config, (config.rule,), vars(args))
    training = prepare(config)
    torch_state.load(training, file)
    run = Run.create(config, training.feed.about(), training.device.name, args.log_name, training)
    for remark in torch_state.remarks(file, training):
        print(f"wtref: {printable(remark)}", file=sys.stderr)
    print(f"run: {run.folder}")


def data(args, given):
    """List the data sets and whether they are here and intact, or fetch one."""
    folder = given.get("data_dir") or datasets.DATA_DIR
    if args.action == "fetch" and args.name is None:
        raise InputError(f"data fetch needs a name; choose from: {', '.join(fetch.CATALOGUE)}")
    if args.action == "fetch":
        for path in fetch.fetch(args.name, folder):
            print(f"fetched: {printable(path)}")
        return
    for row in fetch.status(folder):
        print(f"{row.name:<14} {row.state:<8} {printable(row.detail)}")


def bench(args, given):
    """Time training steps beside PyTorch's: with no flags the goals of speed, else a grid of models, rules, batches."""
    own = {name: value for name, value in vars(args).items() if name in benching.OWN and value}
    kind = benching.kind(args.loader, args.growth, args.scaling, own | given)
    if args.profile and given.get("kernels") == "plain" and given.get("device", "cpu").startswith("cuda"):
        raise InputError("--profile on a GPU times the CUDA kernels; leave --kernels plain out")
    if args.json:
        benching.check_path(args.json)
    if kind == "loader":
        configs = [Config(**{**given, **which}) for which in benching.combinations(own, given)]
        found = {"rows": [_bench_loader(config, args.repeats) for config in configs]}
    elif kind == "scaling":
        found = {"rows": [scaling.run(work, args.repeats) for work in benching.scaling_works(own, given)]}
    else:
        plan = benching.plan(kind, own, given)
        found = {"rows": benching.run(plan, args.repeats, args.profile)}
        if kind != "grid":
            found["growth"] = benching.judge_growth(found["rows"])
            print(*map(benching.verdict, found["growth"]), sep="\n")
    if args.json:
        benching.write(args.json, repeats=args.repeats, **found)


def _bench_loader(config, repeats):
    training = prepare(config)
    loader, step = benching.loader_and_step(training, repeats)
    print(f"{config.dataset} at batch {config.batch_size}: the loader alone gives {loader:,.0f} images/s")
    print(f"{config.model} under {config.rule} on {training.device.name}: the training step takes {step:,.0f} images/s")
    about = {name: getattr(config, name) for name in ("dataset", "model", "rule", "batch_size")}
    return about | {"loader_images_per_second": loader, "step_images_per_second": step}


def check(args, given):
    """The same network in PyTorch, side by side; exits 1 where float64 exceeds 1e-9."""
    from wtref.oracle import check as torch_check

    rows = torch_check.check(args.models, args.rules, args.device, args.dtype, progress=print)
    print(torch_check.table(rows))
    return int(not all(row.passed for row in rows))


def report_gpu(args, given):
    """Tests, cross-check, benchmark and a short training on a GPU, in under nine minutes, as a report."""
    device = open_device(args.device)
    if device.name == "cpu":
        raise InputError("gpu-report needs a GPU, found --device cpu; try --device cuda")
    return int(gpu_report.report(args.out, device.name) > 0)


def mirror(args, given):
    """The weight mirror and Kolen-Pollack alone: B on its way to W^T, beside what theory says."""
    from wtref.studies import mirror as mirroring

    lessons = mirroring.lessons(args.inputs, args.seed)
    try:
        pictures = figures.draw_lessons(*lessons, free_folder("mirror"))
    finally:  # what cannot be kept can still be read
        print(mirroring.table(*lessons))
    for path in pictures:
        print(f"picture: {path}")


def constants(args, given):
    """Do the weight mirror's default constants hold on every network?  Exits 1 where they do not."""
    for model in args.models:
        check_choice("model", model, MODELS)
    check_effects(Config(**given), ("wm",), vars(args))
    held = True
    print(studying.HEADER)
    for finding in studying.study(args.models, args.steps, **given):
        print(studying.line(finding), flush=True)
        held = held and finding.held
    limits = f"matrix angles under {studying.MATRIX:g}°, delta angles under {studying.DELTA:g}°"
    print(f"{limits}: {'held by all' if held else 'NOT held by all'}; mirroring: its share of a step's time")
    return int(not held)


def decay(args, given):
    """How Kolen-Pollack's weight decay sets the time to alignment, and what it costs in accuracy."""
    check_effects(Config(**given), ("bp", "kp"), vars(args))
    print(decays.HEADER)
    for row in decays.study(args.seeds, **given):
        print(decays.line(row), flush=True)


def audit(args, given):
    """Which rules transport weights, and how?  Exits 1 if one does that does not declare it."""
    findings = auditing.audit(open_device(args.device, args.dtype))
    print(auditing.table(findings))
    return int(not all(finding.honest for finding in findings))
