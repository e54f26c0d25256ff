"""Puts every rule to every model of a repository."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from repo_builder.lint.findings import SEVERITIES, Expected, Finding
from repo_builder.lint.repository import CONFIG_PARSE, Repository, Subject, read_repository
from repo_builder.lint.rules import CHECKS, REPOSITORY_CHECKS
from repo_builder.lint.rules.layout import unreadable
from repo_builder.lint.rules.text import has_placeholders
from tritonfleet.server.layout import CONFIG_NAME


def lint(path: Path, expected: Expected | None = None) -> tuple[Repository, tuple[Finding, ...]]:
    """A repository and all that is wrong with it: by model, worst first."""
    expected = expected or Expected()
    repository = read_repository(path)
    found = [*repository.findings, *_of_models(repository, expected)]
    for check in REPOSITORY_CHECKS:
        found += (replace(finding, model=model) for model, finding in check(repository, expected))
    unfilled = {
        subject.model
        for subjects in repository.models.values()
        for subject in subjects
        if not subject.parsed and has_placeholders(subject.text)
    }
    # A template that was never filled in does not parse; that it was not says it all.
    kept = {f for f in found if f.rule != CONFIG_PARSE.id or f.model not in unfilled}
    return repository, tuple(sorted(kept, key=_order))


def _of_models(repository: Repository, expected: Expected) -> Iterator[Finding]:
    for subjects in repository.models.values():
        main: set[Finding] = set()
        for subject in subjects:
            # What an alternative configuration shares with the main one is said once.
            found = set(_of_subject(subject, expected)) - main
            main |= found
            yield from (_placed(subject, finding) for finding in found)


def _of_subject(subject: Subject, expected: Expected) -> Iterator[Finding]:
    for check in CHECKS:
        try:
            yield from check(subject, expected)
        except OSError as error:
            path = Path(error.filename) if error.filename else subject.folder
            yield unreadable(path, error, subject.folder)


def _placed(subject: Subject, finding: Finding) -> Finding:
    if subject.file in ("", CONFIG_NAME):
        return replace(finding, model=subject.model)
    place = f"{subject.file}: {finding.place}".rstrip(": ")
    return replace(finding, model=subject.model, place=place)


def _order(finding: Finding) -> tuple[str, int, str, str, str]:
    rank = SEVERITIES.index(finding.severity)
    return finding.model, rank, finding.rule, finding.place, finding.message
