"""The fleet beside others that serve many models from little memory, on one job in one run."""
