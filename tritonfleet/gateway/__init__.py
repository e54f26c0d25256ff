"""One address for every model, loaded or not."""
