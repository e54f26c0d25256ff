"""Looks at a machine before a fleet runs on it, and says what to do about what it finds.

Probes at the edge gather facts and judge nothing; judgements turn facts into findings and touch
nothing, so that recorded facts of machines that nobody has at hand are judged in tests.
"""
