"""The whole of ``config.pbtxt``: a message of options and artifact, its text, and its checks."""
