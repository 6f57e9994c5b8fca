"""A network that has learned a little, as a file of PyTorch's, for the tests of export and import."""

from wtref.runs.prepare import prepare
from wtref.runs.run_files import Images


def trained(config, steps=4):
    """A Training a few steps on its way, so that no array is at its starting value."""
    training = prepare(config)
    for _ in zip(range(steps), training.run()):
        pass
    return training


def export_to(path, training, feedback=False):
    from wtref.oracle import states as torch_state

    torch_state.export(training.network, training.config, Images.of(training.feed.about()), path, feedback)
