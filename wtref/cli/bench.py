"""The commands that measure speed: bench and gpu-report."""

from wtref.bench import goals, gpu_report, scaling
from wtref.cli.arguments import add_config, listed
from wtref.device import open_device
from wtref.errors import InputError
from wtref.models import MODELS
from wtref.relatives import RULES
from wtref.runs.config import Config
from wtref.runs.prepare import prepare


def add_commands(command):
    add_bench(command("bench", bench))
    add_gpu_report(command("gpu-report", report_gpu))


def add_bench(parser):
    parser.add_argument("--models", nargs="+", metavar="MODEL", help=listed(MODELS))
    parser.add_argument("--rules", nargs="+", metavar="RULE", help=listed(RULES))
    parser.add_argument("--batches", nargs="+", type=int, metavar="N", help="images per step")
    parser.add_argument("--shape", nargs=3, type=int, metavar=("H", "W", "C"), help="default: CIFAR's or MNIST's")
    parser.add_argument("--repeats", type=int, default=7, metavar="N", help="turns the median is taken over (default 7)")
    parser.add_argument("--profile", action="store_true", help="also show where wtref's time goes")
    parser.add_argument("--json", metavar="FILE", help="write everything there too")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--growth", action="store_true", help="only how time grows with the batch and the network")
    kinds.add_argument("--scaling", action="store_true", help="one and two processes of this machine, and a prediction for more")
    kinds.add_argument("--loader", action="store_true", help="the loader's images per second, and the training step's")
    add_config(parser, without=("model", "rule", "batch_size"))


def bench(args, given):
    """Time training steps beside PyTorch's: with no flags the goals of speed, else a grid of models, rules, batches."""
    own = {name: value for name, value in vars(args).items() if name in goals.OWN and value}
    kind = goals.kind(args.loader, args.growth, args.scaling, own | given)
    if args.profile and given.get("kernels") == "plain" and given.get("device", "cpu").startswith("cuda"):
        raise InputError("--profile on a GPU times the CUDA kernels; leave --kernels plain out")
    if args.json:
        goals.check_path(args.json)
    if kind == "loader":
        configs = [Config(**{**given, **which}) for which in goals.combinations(own, given)]
        found = {"rows": [_bench_loader(config, args.repeats) for config in configs]}
    elif kind == "scaling":
        found = {"rows": [scaling.run(work, args.repeats) for work in goals.scaling_works(own, given)]}
    else:
        plan = goals.plan(kind, own, given)
        found = {"rows": goals.run(plan, args.repeats, args.profile)}
        if kind != "grid":
            found["growth"] = goals.judge_growth(found["rows"])
            print(*map(goals.verdict, found["growth"]), sep="\n")
    if args.json:
        goals.write(args.json, repeats=args.repeats, **found)


def _bench_loader(config, repeats):
    training = prepare(config)
    loader, step = goals.loader_and_step(training, repeats)
    print(f"{config.dataset} at batch {config.batch_size}: the loader alone gives {loader:,.0f} images/s")
    print(f"{config.model} under {config.rule} on {training.device.name}: the training step takes {step:,.0f} images/s")
    about = {name: getattr(config, name) for name in ("dataset", "model", "rule", "batch_size")}
    return about | {"loader_images_per_second": loader, "step_images_per_second": step}


def add_gpu_report(parser):
    parser.add_argument("--out", required=True, metavar="DIR", help="the report's folder")
    parser.add_argument("--device", default="cuda", help="cuda or cuda:N (default cuda)")


def report_gpu(args, given):
    """Tests, cross-check, benchmark and a short training on a GPU, in under nine minutes, as a report."""
    device = open_device(args.device)
    if device.name == "cpu":
        raise InputError("gpu-report needs a GPU, found --device cpu; try --device cuda")
    return int(gpu_report.report(args.out, device.name) > 0)
