"""``tritonfleet import``: a fleet file for a repository that somebody else made."""
