"""Describe with worker processes on this machine, a Ray cluster or Slurm, all through datatrove.

Describers and store are the same everywhere. A worker looks up in the store what is left of its shard, and writes to
its own file, so the result does not depend on how long workers lived or how many there were before.

    launch      starts the workers and supervises them        run_folder  the communication between launcher and workers
    worker      describes one shard                           local, ray, slurm   where the workers run
"""
