"""Describing with more than this process: processes of this machine, a Ray cluster or Slurm, each through datatrove.

Describers and store are the same everywhere. A worker looks up in the store what is left of its shard, and writes to a
file of its own; so the result depends neither on how long each worker lived nor on how many there were last time.

    launch      starts the workers and supervises them        run_folder  what launcher and workers tell one another
    worker      describes one shard                           local, ray, slurm   where the workers run
"""
