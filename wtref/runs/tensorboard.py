"""Optional TensorBoard event files, written by the package tensorboardX."""

import contextlib
import time

from wtref.errors import InputError, Unsaved


def check_installed():
    """Raise InputError if tensorboardX is not installed."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX: pip install 'wtref[tensorboard]'") from None


@contextlib.contextmanager
def event_writer(run, wanted):
    """A context with a function that writes an epoch's record as scalars into the run's folder; without `wanted`, it does
    nothing.  Raises Unsaved."""
    if not wanted:
        yield lambda record: None
        return
    from tensorboardX.event_file_writer import EventsWriter  # SummaryWriter writes in a thread and loses errors
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary

    folder = run.folder / "events"
    with _explained(folder):
        folder.mkdir(exist_ok=True)
        writer = EventsWriter(str(folder / "events"))

    def write(record):
        values = [Summary.Value(tag=tag, simple_value=number) for tag, number in _scalars(record)]
        with _explained(folder):
            writer.write_event(Event(wall_time=time.time(), step=record["epoch"], summary=Summary(value=values)))
            writer.flush()

    yield write
    with _explained(folder):
        writer.close()


def _scalars(record):
    """Yield (tag, number) for each number in the record."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((f"{name}/{part}", number) for part, number in value.items())
        else:
            yield name, value


@contextlib.contextmanager
def _explained(folder):
    try:
        yield
    except OSError as error:
        raise Unsaved(f"cannot write to {folder}: {error.strerror or error}; --no-tensorboard does without") from None
