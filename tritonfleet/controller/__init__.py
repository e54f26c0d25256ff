"""Which models are in memory, and where: the ledger decides, the controller acts."""
