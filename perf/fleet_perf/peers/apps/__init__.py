"""The peers' programs. They run in environments of their own and import nothing of ours but this.

Whoever reads a table wants to know what was compared, so each is a whole program, written as that
peer's documentation advises.
"""
