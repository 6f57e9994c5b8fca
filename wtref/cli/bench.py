"""The commands that measure speed: bench, with a parser for each kind of benchmark, and gpu-report."""

from contextlib import suppress
from itertools import product

from wtref import progress
from wtref.bench import goals, gpu_report, kernels, loader, measure, report, scaling, work
from wtref.cli.arguments import add_config, add_names
from wtref.cli.parser import Distinct
from wtref.device import open_device
from wtref.errors import InputError, Unsaved
from wtref.fast.ops import equip
from wtref.models import MODELS
from wtref.relatives import RULES
from wtref.runs.config import Config

REPEATS = 7
NETWORK = ("plugin", "norm", "activation", "hidden", "stem", "dtype")
MACHINE = ("device", "threads", "kernels", "precision", "graph")
IMAGES = ("dataset", "data_dir", "crop", "flip", "rotate", "jitter", "image_size", "bad_images", "workers")


def add_commands(command):
    add_bench(command("bench", bench_goals))
    add_gpu_report(command("gpu-report", report_gpu))


def add_bench(parser):
    parser.set_defaults(repeats=REPEATS, profile=False, eager=False, json=None)
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", description="Without one of them: goals.")

    def kind(name, function, config):
        """The parser of a kind of benchmark; config: the fields of Config that are its flags."""
        subparser = kinds.add_parser(name, help=function.__doc__, description=function.__doc__)
        subparser.set_defaults(command=function)
        subparser.add_argument(
            "--repeats", type=int, default=REPEATS, metavar="N", help=f"rounds, of which the median is taken (default: {REPEATS})"
        )
        subparser.add_argument("--json", metavar="FILE", help="also write the results to this file")
        add_config(subparser, only=config, device=work.DEFAULTS["device"])
        return subparser

    judged = kind("goals", bench_goals, MACHINE)
    add_profile(judged)
    add_eager(judged)
    add_profile(kind("growth", bench_growth, MACHINE))
    steps = kind("steps", bench_steps, (*NETWORK, *MACHINE))
    add_grid(steps)
    add_shape(steps)
    add_profile(steps)
    add_eager(steps)
    processes = kind("scaling", bench_scaling, (*NETWORK, "threads", "kernels", "sync_bn", "bucket_mib"))
    add_grid(processes, model="resnet18", batch=128)
    add_shape(processes)
    add_grid(kind("loader", bench_loader, (*IMAGES, *NETWORK, *MACHINE)))
    kind("kernels", bench_kernels, ("threads",))


def add_profile(parser):
    parser.add_argument("--profile", action="store_true", help="also show where wtref's time goes")


def add_eager(parser):
    parser.add_argument("--eager", action="store_true", help="leave torch.compile out, which takes up to minutes for each network")


def add_grid(parser, model=Config.model, batch=Config.batch_size):
    add_names(parser, "--models", "MODEL", [model], MODELS)
    add_names(parser, "--rules", "RULE", [Config.rule], RULES)
    batches = f"images per step (default: {batch})"
    parser.add_argument("--batches", nargs="+", type=int, action=Distinct, default=[batch], metavar="N", help=batches)


def add_shape(parser):
    parser.add_argument("--shape", nargs=3, type=int, metavar=("H", "W", "C"), help="of an image (default: CIFAR's or MNIST's)")


def bench_goals(args, given):
    """Time wtref beside PyTorch and judge it by the goals of speed, growth included."""
    _prepare(args, given)
    _measure_and_judge(goals.all_works(**given), args)


def bench_growth(args, given):
    """Judge only how the time grows with the batch and with the network."""
    _prepare(args, given)
    _measure_and_judge(goals.growth_works(**given), args)


def _measure_and_judge(plan, args):
    rows = _measure(plan, args)
    growth = goals.judge_growth(rows)
    print(*map(report.verdict, growth), sep="\n")
    _write(args, rows=rows, growth=growth)


def bench_steps(args, given):
    """Time a training step of each of some models, rules and batch sizes beside PyTorch."""
    _prepare(args, given)
    works = work.grid(args.models, args.rules, args.batches, args.shape, **given)
    _write(args, rows=_measure([(each, ()) for each in works], args, compile_all=True))


def bench_scaling(args, given):
    """Time a training step on one process and on two, and predict it for more."""
    _prepare(args, given)
    works = work.grid(args.models, args.rules, args.batches, args.shape, **given)
    for each in works:
        scaling.check(each)
    _write(args, rows=[scaling.run(each, args.repeats) for each in progress.each(works)])


def bench_loader(args, given):
    """Time the loader of a data set beside the training step."""
    _prepare(args, given)
    rows = []
    for model, rule, batch in progress.each(product(args.models, args.rules, args.batches), "{0[0]} {0[1]} batch {0[2]}".format):
        rows.append(loader.measure(Config(**{**work.DEFAULTS, **given, "model": model, "rule": rule, "batch_size": batch}), args.repeats))
        print(loader.line(rows[-1]))
    _write(args, rows=rows)


def bench_kernels(args, given):
    """Time each compiled kernel beside its plain version in NumPy, on shapes from the models."""
    _prepare(args, given)
    device, rows = equip(open_device("cpu"), "compiled", given.get("threads")), []
    print(f"{device.kernels}, float32", kernels.TITLE, sep="\n")
    for case in kernels.cases():
        progress.show(f"{case.op}, {case.where}")
        row = kernels.measure(device.ops, case, args.repeats)
        if not rows or kernels.heading(row) != kernels.heading(rows[-1]):
            print(kernels.heading(row))
        print(kernels.line(row), flush=True)
        rows.append(row)
    print(kernels.verdict(rows))
    _write(args, kernels=device.kernels, rows=rows)


def _prepare(args, given):
    """Choose the device where it is "auto", and raise InputError for what would otherwise fail after the measurements."""
    if given.get("device") == "auto":
        given["device"] = open_device("auto").name
    if args.profile and given.get("kernels") == "plain" and given.get("device", "cpu").startswith("cuda"):
        raise InputError("--profile on a GPU times the CUDA kernels; leave --kernels plain out")
    if args.json:
        report.check_path(args.json)


def _measure(plan, args, compile_all=False):
    """Measure each (Work, its Goals) and print a line for it; returns the rows.

    torch.compile is tried where a goal judges the ratio, or for all.  The rows are written before it is tried and after.
    """
    rows = []
    for each, limits in progress.each(plan, lambda pair: str(pair[0])):
        eager = args.eager or not (compile_all or any(goal.quantity == "ratio" for goal in limits))
        for row in measure.measure(each, args.repeats, args.profile, eager):
            row["goals"] = [goal.judge(row) for goal in limits]
            with suppress(Unsaved):  # tried again at the end
                _write(args, rows=[*rows, row])
        if not rows:
            print(report.header(row))
        print(report.line(row), flush=True)
        rows.append(row)
    return rows


def _write(args, **found):
    if args.json:
        report.write(args.json, repeats=args.repeats, **found)


def add_gpu_report(parser):
    parser.add_argument("--out", required=True, metavar="DIR", help="the report's folder")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default: cuda)")


def report_gpu(args, given):
    """Test, check, time and train on a GPU in under nine minutes, and write a report."""
    device = open_device(args.device)
    if device.name == "cpu":
        raise InputError("gpu-report needs a GPU, found --device cpu; try --device cuda")
    return int(gpu_report.report(args.out, device.name) > 0)
