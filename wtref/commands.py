"""What each command of the command line does, one function each; cli.py reads their arguments."""

import sys
from dataclasses import fields, replace

from wtref import audit as auditing
from wtref import bench as benching
from wtref import compare as comparing
from wtref import datasets, figures, gpu_report, predicting, runs
from wtref.backend import open_device
from wtref.config import Config
from wtref.datasets import fetch
from wtref.errors import Diverged, InputError, Unsaved
from wtref.runs import Run
from wtref.signals import stop_requests
from wtref.tensorboard import check_installed, event_writer
from wtref.training import Training


def compare(args, given):
    """The same network under several rules and seeds, as a table and pictures."""
    config = Config(**{**comparing.DEFAULTS, **given})
    return comparing.run(config, args.rules, args.seeds, args.jobs)


def train(args, given):
    """Train one network by one rule, in a folder of its own under runs/."""
    if args.resume is not None and args.log_name is not None:
        extra = f"leave --log-name {args.log_name} out"
        raise InputError(f"--resume goes on under the run's own name, {args.resume}; {extra}")
    run = Run.find(args.resume) if args.resume is not None else None
    config = _resumed_config(run, given) if run else Config(**given)
    if config.tensorboard:
        check_installed()
    training = _training(config, config.device)
    about = training.feed.about()
    if run is None:
        run = Run.create(config, about, training.device.name, args.log_name)
    elif run.about()["data"].get("sha256") != about["sha256"]:
        raise InputError(f"--resume {run.name}: {config.dataset} is not the data that the run was started with")
    else:
        run.restore(training)
    weights = sum(s.W.size for s in training.network.synapses)
    where = ", ".join(filter(None, (training.device.name, config.dtype, training.device.kernels)))
    print(f"{config.model}, {weights:,} weights, by {config.rule} on {config.dataset}; {where}")
    print(f"run: {run.folder}", flush=True)
    return _train_and_save(training, run)


def evaluate(args, given):
    """Test a run's network on test images, its own data set's or another's."""
    run, training = _trained(args, **given)
    loss, error = training.evaluate(training.feed.test_batches())
    print(f"{run.name}: {args.checkpoint} checkpoint, after {training.epoch} epochs and {training.position} steps")
    tested = f"{training.feed.test_count} test images of {training.config.dataset}"
    print(f"{tested}: error {error:.2f} %, loss {loss:.4f} nats")


def predict(args, given):
    """The five likeliest classes of each image, by a run's network."""
    run = Run.find(args.name)
    predictor = predicting.Predictor(run, args.checkpoint, args.device)
    for path in args.images:
        likeliest = predictor.top(path, 5)
        print(path)
        for name, probability in likeliest:
            print(f"  {100 * probability:6.2f} %  {name}")


def list_runs(args, given):
    """A table of all runs in runs/: rule, model, data, epoch, best error, state."""
    print(runs.table())


def draw(args, given):
    """Several runs in one picture: test error and angles per epoch."""
    found = [Run.find(name) for name in args.names]
    recipes = {(run.config().rule, replace(run.config(), seed=0)) for run in found}
    by_rule = len(recipes) == len({rule for rule, _ in recipes})  # runs of one rule differ in their seeds alone
    lines = [{**line, "curve": line["rule"] if by_rule else run.name} for run in found for line in run.lines()]
    if not lines:
        raise InputError(f"no finished epochs to draw in: {', '.join(args.names)}")
    for path in figures.draw_comparison(lines, found[0].folder):
        print(f"picture: {path}")


def export(args, given):
    """Write a run's network in another program's form: a PyTorch state_dict."""
    from wtref import torch_state

    run, training = _trained(args)
    path = run.folder / "torch.pt"
    torch_state.export(training, path)
    print(f"PyTorch state_dict of wtref.torch_networks.build({training.config.model!r}, ...): {path}")


def import_(args, given):
    """Start a run from a PyTorch state_dict; evaluate it, or train it on with --resume."""
    from wtref import torch_state

    config = Config(**given)
    training = _training(config, config.device)
    torch_state.load(training, args.file)
    run = Run.create(config, training.feed.about(), training.device.name, args.log_name)
    _save(run, training)
    print(f"run: {run.folder}")


def data(args, given):
    """List the data sets and whether they are here and intact, or fetch one."""
    folder = given.get("data_dir") or datasets.DATA_DIR
    if args.action == "fetch" and args.name is None:
        raise InputError(f"data fetch needs a name; choose from: {', '.join(fetch.CATALOGUE)}")
    if args.action == "fetch":
        for path in fetch.fetch(args.name, folder):
            print(f"fetched: {path}")
        return
    for row in fetch.status(folder):
        print(f"{row.name:<14} {row.state:<8} {row.detail}")


def bench(args, given):
    """Time training steps beside PyTorch's: with no flags the goals of speed, else a grid of models, rules, batches."""
    own = {name: value for name, value in vars(args).items() if name in benching.OWN and value}
    kind = benching.kind(args.loader, args.growth, own | given)
    benching.check_counts(repeats=[args.repeats], batches=args.batches, shape=args.shape)
    if args.profile and given.get("device", "cpu").startswith("cuda"):
        raise InputError("--profile counts time on the CPU, where a GPU's kernels only start; leave it out with --device cuda")
    if args.json:
        benching.check_path(args.json)
    if kind == "loader":
        configs = [Config(**{**given, **which}) for which in benching.combinations(own, given)]
        found = {"rows": [_bench_loader(config, args.repeats) for config in configs]}
    else:
        plan = benching.plan(kind, own, given)
        found = {"rows": benching.run(plan, args.repeats, args.profile)}
        if kind != "grid":
            found["growth"] = benching.judge_growth(found["rows"])
            print(*map(benching.verdict, found["growth"]), sep="\n")
    if args.json:
        benching.write(args.json, repeats=args.repeats, **found)


def _bench_loader(config, repeats):
    training = _training(config, config.device)
    loader, step = benching.loader_and_step(training, repeats)
    print(f"{config.dataset} at batch {config.batch_size}: the loader alone gives {loader:,.0f} images/s")
    print(f"{config.model} under {config.rule} on {training.device.name}: the training step takes {step:,.0f} images/s")
    about = {name: getattr(config, name) for name in ("dataset", "model", "rule", "batch_size")}
    return about | {"loader_images_per_second": loader, "step_images_per_second": step}


def check(args, given):
    """The same network in PyTorch, side by side; exits 1 where float64 exceeds 1e-9."""
    from wtref import torch_check

    rows = torch_check.check(args.models, args.rules, args.device, args.dtype, progress=print)
    print(torch_check.table(rows))
    return int(not all(row.passed for row in rows))


def report_gpu(args, given):
    """Tests, cross-check, benchmark and a short training on a GPU, in under nine minutes, as a report."""
    device = open_device(args.device)
    if device.name == "cpu":
        raise InputError("gpu-report needs a GPU, found --device cpu; try --device cuda")
    return int(gpu_report.report(args.out, device.name) > 0)


def audit(args, given):
    """Does a rule's backward pass read W?  Exits 1 if a rule that claims to be free of it is not."""
    findings = auditing.audit(open_device(args.device, args.dtype))
    print(auditing.table(findings))
    return int(not all(finding.honest for finding in findings))


def _training(config, device_name):
    device = config.open_device(device_name)
    return Training(config, device, datasets.open_feed(config, device))


def _train_and_save(training, run):
    """Train to the end, or until a signal asks to stop; returns the exit code."""
    config = training.config
    with stop_requests() as stop, event_writer(run, config.tensorboard) as write_events:
        for record in _explained(training.steps(), run):
            if record:
                print(_epoch_line(record, config.epochs), flush=True)
                write_events(record)
            if record or stop.signal or training.position % config.save_every == 0:
                _save(run, training, record)
            if stop.signal and training.epoch < config.epochs:
                at = f"epoch {training.epoch + 1}, after step {training.position} of {training.feed.steps}"
                go_on = f"go on with: python run.py train --resume {run.name}"
                print(f"wtref: stopped in {at}; all of it is saved in {run.folder}; {go_on}", file=sys.stderr)
                return stop.exit_code
    print(f"done: {config.epochs} epochs, checkpoints and metrics in {run.folder}")
    if training.feed.skipped:
        print(f"{len(training.feed.skipped)} damaged images were skipped, such as: {min(training.feed.skipped)}")
    return 0


def _save(run, training, record=None):
    try:
        if record:
            run.add(record)
        run.save(training)
    except OSError as error:
        raise Unsaved(f"cannot write to {run.folder}: {error.strerror}; {run.saved()}, unharmed") from None


def _explained(steps, run):
    """The same steps; a divergence also says what is saved, and too little memory what to do."""
    try:
        yield from steps
    except Diverged as error:
        raise Diverged(f"{error}; {run.saved()}") from None
    except MemoryError as error:
        batch = run.config().batch_size
        reason = " ".join(str(error).split()) or "no more to be had"
        raise InputError(f"out of memory at batch size {batch} ({reason}); lower --batch-size; {run.saved()}") from None


def _trained(args, **changes):
    """A run and its Training, as a checkpoint has it."""
    run = Run.find(args.name)
    config = run.config()
    if changes:
        config = Config(**{**vars(config), **changes})
    training = _training(config, args.device)
    arrays, plain = run.checkpoint(args.checkpoint)
    try:
        training.restore(arrays, plain)
    except (KeyError, ValueError) as error:
        raise InputError(f"run {run.name!r} does not fit the images of {config.dataset} ({error!r})") from None
    return run, training


def _resumed_config(run, given):
    """The run's own Config, with what `given` says of where and how; refuses flags that contradict the rest."""
    config = run.config()
    changeable = {spec.name for spec in fields(Config) if spec.metadata["changeable"]}
    different = [
        f"--{name.replace('_', '-')} is {getattr(config, name)}, not {value}"
        for name, value in given.items()
        if name not in changeable and getattr(config, name) != value
    ]
    if different:
        raise InputError(f"--resume {run.name} contradicts the run: {'; '.join(different)}; leave those flags out")
    return replace(config, **{name: value for name, value in given.items() if name in changeable})


def _epoch_line(record, epochs):
    angles = " ".join(
        f"{kind} angle {sum(values.values()) / len(values):.1f}°"
        for kind, values in (("matrix", record["matrix_angles"]), ("delta", record["delta_angles"]))
        if values
    )
    return (
        f"epoch {record['epoch']}/{epochs}  loss {record['train_loss']:.4f}  train error {record['train_error']:.2f} %  "
        f"test error {record['test_error']:.2f} %  {angles}  {record['images_per_second']:,.0f} images/s"
    )
