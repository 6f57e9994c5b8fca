"""TensorBoard event files, by option, through the package tensorboardX."""

import contextlib

from wtref.errors import InputError


def check_installed():
    """Raise InputError if the package is not there."""
    try:
        import tensorboardX  # noqa: F401
    except ImportError:
        raise InputError("--tensorboard needs tensorboardX: pip install 'wtref[tensorboard]'") from None


@contextlib.contextmanager
def event_writer(run, wanted):
    """A function that writes an epoch's record as scalars into the run's folder; does nothing unless wanted."""
    if not wanted:
        yield lambda record: None
        return
    from tensorboardX import SummaryWriter

    def write(record):
        for name, value in record.items():
            scalars = value if isinstance(value, dict) else {None: value}
            for part, number in scalars.items():
                writer.add_scalar(f"{name}/{part}" if part else name, number, record["epoch"])
        writer.flush()

    with SummaryWriter(str(run.folder / "events")) as writer:
        yield write
