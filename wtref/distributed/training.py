"""The training loop of one of several processes."""

from wtref.device import to_host
from wtref.training import Training


class DistributedTraining(Training):
    """A Training whose images and labels are one process's shard of every batch."""

    def __init__(self, *parts, group, check_copies=0, **options):
        """group: group.ProcessGroup; check_copies: number of steps between two comparisons of all processes' W, b and B, 0 for none."""
        self.group, self.check_copies = group, check_copies
        super().__init__(*parts, **options)

    def before_training(self):
        super().before_training()
        self.group.pop_waiting_time()  # only the steps' waiting is counted

    def step(self, images, labels):
        result = super().step(images, labels)
        if self.check_copies and (self.steps_done + 1) % self.check_copies == 0:
            self.group.verify_copies(self._copies())
        return result

    def total(self, *numbers):
        """The sums of plain numbers over all processes, as floats."""
        return self.group.total(*numbers)

    def flush(self):
        if self.pending:  # in every process, or in none
            super().flush()
            self.waited += self.group.pop_waiting_time()

    def record(self, *tested):
        waiting = {"processes": self.group.size, "waiting_ms_per_step": 1000 * self.waited / self.feed.steps}
        return super().record(*tested) | waiting

    def start_epoch(self):
        super().start_epoch()
        self.group.pop_waiting_time()  # the time between two epochs is not counted

    def _copies(self):
        """Every W, b and B, as host arrays by name."""
        return {f"{s.name}.{name}": to_host(array) for s in self.network.synapses for name, array in s.arrays().items()}
