"""The same program on several processes, each with a shard of every batch.

This file imports nothing: a process that runs alone needs no more than `group`, and loads no MPI.
"""
