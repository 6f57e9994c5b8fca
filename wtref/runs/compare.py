"""Several rules and seeds under one recipe: an Experiment is trained, then its runs are compared in one report.

Each rule and seed is an ordinary run in runs/NAME-RULE-SEED/.  Finished runs are left as they are and interrupted ones
are continued, so the same command, given again, does what is left to do.
"""

import contextlib
import io
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial

from wtref import datasets, locks, plugins, progress
from wtref.cores import cores, default_threads
from wtref.datasets.folder import last_decoded
from wtref.distributed.group import SINGLE
from wtref.errors import Diverged, InputError, Unsaved, memory_reason
from wtref.files import make_folder
from wtref.interrupts import exit_code
from wtref.runs import report, session
from wtref.runs.config import Config
from wtref.runs.folders import RUNS, run_names
from wtref.runs.jobs import completed
from wtref.runs.prepare import prepare
from wtref.runs.run import Run
from wtref.runs.tensorboard import check_installed
from wtref.text import counted, printable, wrapped

KINDS = {".jsonl": "metrics", ".txt": "table", ".png": "picture", ".html": "report"}


def compare(experiment, name, folder, command, jobs=None, group=SINGLE):
    """Train what is left of an Experiment, print its table and write its report; returns the exit code.

    name: with which the names of its runs begin; folder: of the report; command: what continues it; jobs: runs trained
    at a time, by default one per core, or one on a GPU; group: the processes that train each run together.
    """
    configs = experiment.configs(name)
    left = group.on_rank_0(lambda: _unfinished(configs, folder))
    code, reason = 0, ""
    if left:
        jobs = _number_of_jobs(jobs, configs[left[0]], len(left), group)
        _introduce(experiment, configs, left, jobs, group)
    if len(left) < len(configs):
        finished = f"{len(configs) - len(left)} of {counted(len(configs), 'run')} finished already and left as they are"
        print(wrapped(f"{finished}; remove their folders, runs/{name}-RULE-SEED, to train them anew"), flush=True)
    if left:
        code, reason = _train_all(configs, left, jobs, group)
    shown = group.on_rank_0(lambda: reported(experiment, name))
    lines = group.on_rank_0(lambda: finished_lines(shown))
    about = experiment, list(shown.values()), lines
    if reason:
        missing = report.missing_in_words(list(configs.values()), lines) or "all runs finished, without a report"
        _complain(f"{reason}; {missing}; do what is left with: {printable(command)}")
    if lines:
        _report(folder, about, command, group, unfinished=bool(reason))
    return code


def _unfinished(configs, folder):
    """The names of the runs that are still to be begun or continued.  Raises InputError where one is of another recipe."""
    _check_report_folder(folder)
    begun = list(filter(_begun, configs))
    for name in begun:
        Run(name).check_plugin()
        session.check_recipe(Run(name), configs[name])
    finished = {name for name in begun if Run(name).finished()}
    return [name for name in configs if name not in finished]


def _check_report_folder(folder):
    """Raise InputError unless the folder is new, empty, or that of a report."""
    present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "config.json" in present:
        raise InputError(f"{folder} holds a run, so it can hold no report; move it away")
    if present and not present & {"lock", "metrics.jsonl"}:
        raise InputError(f"{folder} holds other files than a report's, which a report could overwrite; move it away")


def _begun(name):
    return Run(name).folder.joinpath("config.json").exists()


def _number_of_jobs(jobs, config, most, group):
    if group.size == 1:
        on_cpu = config.open_device().name == "cpu"
        return min(jobs or (cores() if on_cpu else 1), most)
    if jobs not in (None, 1):
        raise InputError(f"--jobs {jobs} is for runs of one process each, found {group.size} processes; leave it out")
    return 1


def _introduce(experiment, configs, left, jobs, group):
    """Raise InputError for data, a device or shapes that cannot be, before any work; then print what will be done."""
    first = _sharing_cores(configs[left[0]], jobs)
    if first.tensorboard:
        check_installed()
    training = prepare(first, group=group)
    group.on_rank_0(lambda: make_folder(RUNS))
    rules = ", ".join(experiment.rules)
    about = f"{experiment.about}, {counted(first.epochs, 'epoch')}: {rules} x {counted(experiment.seeds, 'seed')}, {jobs} at a time"
    print(wrapped(f"{about}; {session.device_in_words(training)}"))
    print(datasets.in_words(training.feed), flush=True)
    datasets.warn(training.feed)
    if jobs > 1:
        last_decoded.clear()  # the workers decode a folder for themselves


def _sharing_cores(config, jobs):
    """The Config of one of several runs that share the cores."""
    if jobs == 1:
        return config
    return replace(config, threads=config.threads or default_threads(max(cores() // jobs, 1)))


def _train_all(configs, left, jobs, group):
    """Train the runs called `left`; returns (exit code, the reason in words if some of them were not tried, else "").

    A run that diverges or runs out of memory does not stop the others.  Unreadable data and a full disk do, because
    all runs share them.
    """
    code, skipped = 0, set()
    try:
        with contextlib.closing(_outcomes(configs, left, jobs, group)) as outcomes:
            for number, (name, outcome) in enumerate(outcomes, start=len(configs) - len(left) + 1):
                try:
                    stopped, unread = outcome()
                except (Diverged, MemoryError) as error:
                    if group.size > 1 and isinstance(error, MemoryError):
                        raise  # other processes of the group may have found memory
                    code = 1
                    _complain(f"{_reason(error)} ({name})")
                    continue
                if stopped:
                    return stopped, "interrupted"
                skipped |= unread
                result = group.on_rank_0(lambda: _result(name))
                print(wrapped(f"[{number:>{len(str(len(configs)))}}/{len(configs)}] {result}"), flush=True)
    except (InputError, Unsaved, KeyboardInterrupt, BrokenProcessPool) as error:
        if group.size > 1:
            raise  # other processes of the group may not have met the error
        return _ending(error)
    finally:
        session.say_skipped(skipped)
    return code, ""


def _outcomes(configs, left, jobs, group):
    """Yield (name of a run, function that returns or raises the outcome of `_train`) for each run that is left.

    Several jobs are worker processes; a single one trains the runs in this process, one after the other.
    """
    if jobs == 1:
        for number, name in enumerate(left, start=len(configs) - len(left) + 1):
            yield name, partial(_train, name, configs[name], group, f"run {number}/{len(configs)}  ")
        return
    items = [(name, _sharing_cores(configs[name], jobs)) for name in left]
    for (name, _), future in completed(_train_quietly, items, jobs, _Epochs(configs, left) if progress.shown() else None):
        yield name, future.result


class _Epochs:
    """Shows in the terminal's line how many epochs of all runs are finished, each time it is called."""

    def __init__(self, configs, left):
        self.configs, self.left = configs, left
        self.total, self.first, self.start = sum(config.epochs for config in configs.values()), self._finished(), time.monotonic()

    def __call__(self):
        finished = self._finished()
        left = progress.left(finished - self.first, self.total - self.first, time.monotonic() - self.start)
        progress.show(f"training {counted(len(self.left), 'run')}  epoch {finished:,}/{self.total:,}{left}")

    def _finished(self):
        """The epochs of all runs, finished or not, that are in their metrics."""
        before = sum(config.epochs for name, config in self.configs.items() if name not in self.left)
        return before + sum(Run(name).epochs_written() for name in self.left)


def _train(name, config, group=SINGLE, before=""):
    """Begin or continue one run; returns (exit code, lines about skipped images).  before: what stands before the line of its steps."""
    run = Run(name) if group.on_rank_0(lambda: _begun(name)) else None
    with session.opened(config, run, name, group) as (training, opened_run):
        print(wrapped(f"{name}: {session.start_in_words(training)}") if run else name, flush=True)
        return session.train_and_save(training, opened_run, before)


def _train_quietly(item):
    """`_train` in a worker process, without its output, which would mix with that of other workers."""
    _, config = item
    if config.plugin is not None:
        plugins.load(config.plugin)
    with contextlib.redirect_stdout(io.StringIO()):
        return _train(*item)


def reported(experiment, name):
    """{name of a run: its Config} of all runs that an Experiment's report shows, seed by seed, the control last.

    They are its own, finished or not, and the finished ones of the same recipe that other commands have trained under this
    name: of other rules, or with more seeds.
    """
    configs = experiment.configs(name)
    further = {run.name: run.config() for run in map(Run, run_names()) if run.name not in configs and _belongs(run, experiment, name)}
    return dict(sorted({**configs, **further}.items(), key=lambda item: (item[1].seed, item[1].rule == "frozen")))


def _belongs(run, experiment, name):
    """Whether the run is finished, and one of the experiment's under some rule and seed."""
    if not run.name.startswith(f"{name}-"):
        return False
    try:
        config = run.config()
    except InputError:  # damaged, or of another version of wtref
        return False
    wanted = session.recipe(Config(**experiment.recipe)) | {**experiment.others, **experiment.rules}.get(config.rule, {})
    return run.name == f"{name}-{config.rule}-{config.seed}" and not session.contradictions(run, wanted) and run.finished()


def finished_lines(configs):
    """The metrics lines of all finished runs, in the order of configs."""
    return [line for name in configs if _begun(name) and Run(name).finished() for line in Run(name).lines()]


def _result(name):
    lines = Run(name).lines()
    last = lines[-1]
    seconds = sum(line["seconds"] for line in lines)
    return f"{last['rule']:<6} seed {last['seed']}: test accuracy {100 - last['test_error']:.2f} %, {seconds:.1f} s"


def _reason(error):
    if isinstance(error, MemoryError):
        return f"out of memory ({memory_reason(error)}); fewer --jobs or a smaller --batch-size need less"
    return str(error)


def _ending(error):
    """(exit code, reason in words) of what ends a comparison early."""
    if isinstance(error, KeyboardInterrupt):
        return exit_code(error), "interrupted"
    if isinstance(error, BrokenProcessPool):
        return 1, "a worker process ended before its run, as it does where memory runs out (fewer --jobs need less)"
    return (2 if isinstance(error, InputError) else 1), str(error)


def _complain(text):
    print(f"wtref: {text}", file=sys.stderr, flush=True)


def _report(folder, about, command, group, unfinished):
    """Print the table; write the report unless some runs are still to be trained.

    Another process may be writing the report of other rules there.
    """

    def write():
        make_folder(folder)
        with locks.held(folder / "lock", f"the report {folder}"):
            return report.write(folder, *about, command)

    paths = []
    try:
        if not unfinished:
            paths = group.on_rank_0(write)
    finally:  # the table is shown even where the report cannot be saved
        print(f"\n{report.text(*about)}")
    for path in paths:
        print(f"{KINDS[path.suffix]}: {path}")
