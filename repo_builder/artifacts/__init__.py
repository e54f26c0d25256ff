"""Model files, wherever they lie: brought to this machine, and told apart by their content.

Nothing here knows what a model is. Credentials come from the environment and the standard files of
the libraries; an address that carries some is refused.
"""

from repo_builder.artifacts.artifact import artifact_path, artifact_state

__all__ = ["artifact_path", "artifact_state"]
