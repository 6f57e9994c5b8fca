"""The commands that check and explain: data, check, audit, mirror, constants and decays."""

from functools import partial

from wtref import progress
from wtref.cli.arguments import UNSAVED, add_config, add_device, add_names, listed
from wtref.datasets import fetch, inventory
from wtref.errors import InputError, check_choice, choose
from wtref.installation import data_folder
from wtref.models import MODELS
from wtref.oracle import CHECKED, CHECKED_MODELS
from wtref.relatives import RULES
from wtref.runs.config import Config
from wtref.runs.effects import check_effects
from wtref.runs.folders import reserved
from wtref.studies import audit, decays, mirror, mirror_constants, mirror_figure
from wtref.text import printable, wrapped


def add_commands(command):
    add_data(command("data", list_data))
    add_check(command("check", check_against_torch))
    add_audit(command("audit", audit_rules))
    add_mirror(command("mirror", show_mirror))
    add_constants(command("constants", study_constants))
    add_decays(command("decays", study_decays))


def add_data(parser):
    parser.add_argument("action", nargs="?", choices=["fetch"], help="fetch: download a set from its official home")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the set to fetch")
    add_config(parser, only=("data_dir",))


def list_data(args, given):
    """List the data sets and whether they are here and intact, or fetch one."""
    folder = given.get("data_dir")
    if args.action == "fetch" and args.name is None:
        raise InputError(f"data fetch needs a name; choose from: {listed(fetch.CATALOGUE)}")
    if args.action == "fetch":
        for path in fetch.fetch(args.name, folder or data_folder(args.name)):
            print(f"fetched: {printable(path)}")
        return
    for row in inventory.status(folder):
        print(wrapped(f"{row.name:<14} {row.state:<8} {printable(row.detail)}"))


def add_check(parser):
    add_names(parser, "--models", "MODEL", CHECKED_MODELS, MODELS)
    add_names(parser, "--rules", "RULE", CHECKED, RULES, note="; of a plug-in's rule the two passes alone are compared")
    add_device(parser, dtype="float64")
    add_config(parser, only=("plugin",))


def check_against_torch(args, given):
    """Compare every number of training steps with PyTorch's; exits 1 where float64 exceeds 1e-9."""
    progress.show("loading PyTorch")
    from wtref.oracle import check

    rows = check.check(args.models, args.rules, args.device, args.dtype, report=partial(print, flush=True))
    print(check.table(rows))
    return int(not all(row.passed for row in rows))


def add_audit(parser):
    add_names(parser, "--rules", "RULE", RULES, RULES)
    add_config(parser, only=("plugin",))


def audit_rules(args, given):
    """Find which rules transport weights, and how; exits 1 if one does so without declaring it."""
    findings = audit.audit({rule: choose("rule", rule, RULES) for rule in args.rules})
    print(audit.table(findings))
    return int(not all(finding.honest for finding in findings))


def add_mirror(parser):
    parser.add_argument("--inputs", type=int, default=576, metavar="N", help="cells of the layer that fires noise (default: 576)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of everything random (default: 0)")


def show_mirror(args, given):
    """Show B approach W^T in one layer, under the weight mirror and Kolen-Pollack, beside what theory predicts."""
    lessons = mirror.lessons(args.inputs, args.seed)
    try:
        with reserved("mirror") as folder:
            pictures = mirror_figure.draw(lessons, folder)
    finally:  # the table is printed even where the pictures cannot be saved
        print(mirror.table(lessons))
    for path in pictures:
        print(f"picture: {path}")


def add_constants(parser):
    add_names(parser, "--models", "MODEL", mirror_constants.MODELS, MODELS)
    parser.add_argument("--steps", type=int, default=60, metavar="N", help="training steps each (default: 60)")
    add_config(parser, only=(*UNSAVED, "mirror_window", "mirror_rows", "seed"), dataset="synthetic")


def study_constants(args, given):
    """Test the weight mirror's default constants on several networks; exits 1 where they fail."""
    for model in args.models:
        check_choice("model", model, MODELS)
    check_effects(Config(**given), ("wm",), vars(args))
    held = True
    print(mirror_constants.HEADER)
    for finding in mirror_constants.study(args.models, args.steps, **given):
        print(mirror_constants.line(finding), flush=True)
        held = held and finding.held
    limits = f"matrix angles under {mirror_constants.MATRIX:g}°, delta angles under {mirror_constants.DELTA:g}°"
    print(wrapped(f"{limits}: {'held by all' if held else 'NOT held by all'}; mirroring: its share of a step's time"))
    return int(not held)


def add_decays(parser):
    parser.add_argument("--seeds", type=int, default=5, metavar="N", help="number of seeds, 0, 1, ... (default: 5)")
    add_config(parser, only=("model", "epochs", "batch_size", "lr", "momentum", "schedule", "warmup", "hidden", *UNSAVED))


def study_decays(args, given):
    """Show how Kolen-Pollack's weight decay sets the time to alignment, and what it costs in accuracy."""
    check_effects(Config(**given), ("bp", "kp"), vars(args))
    print(decays.HEADER)
    for row in decays.study(args.seeds, **given):
        print(decays.line(row), flush=True)
