"""``tritonfleet lint``: what is wrong with a Triton model repository, whoever made it."""
