"""Describing on more than this process: several processes here, a Ray cluster, Slurm, each through datatrove.

The describers and the store are the same everywhere. A worker finds in the store what is left of its share, and writes
into a part of its own; so nothing hangs on which worker lived how long, or on how many there were the time before.
"""
