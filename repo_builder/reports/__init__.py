"""Reports of what the builder knows: HTML and Markdown, with plots."""

from repo_builder.reports.report import write_report

__all__ = ["write_report"]
