"""The same program on several processes, each with a share of every batch."""

from wtref.distributed.network import distribute, distributed_step, shard_mirroring
from wtref.distributed.training import DistributedTraining

__all__ = ["DistributedTraining", "distribute", "distributed_step", "shard_mirroring"]
