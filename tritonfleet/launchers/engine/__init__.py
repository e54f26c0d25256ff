"""The container engine, Docker or Podman, and the process that watches one container for us.

Apart from the launcher, and imported from outside this package by nothing heavy: the watching
process lives as long as its container and has to be small.
"""
