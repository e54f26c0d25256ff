"""Moves finished models into a repository, keeps what may be needed again, and proves it whole."""
