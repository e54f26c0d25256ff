"""Renders ``config.pbtxt`` and trusts none of it until it has been parsed back and checked.

What must be said is decided by ``config_message``; the templates, for people to read and change,
write it down. What they give must say all of that, is compared with the artifact's signature, and
is searched for what a server would accept in silence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from repo_builder.config.check import check_config
from repo_builder.config.files import (
    DataFile,
    data_file_names,
    label_texts,
    read_data_files,
    read_labels,
)
from repo_builder.config.message import build_message, data_texts
from repo_builder.config.subject import (
    DEFAULT_MAX_BATCH_SIZE,
    Subject,
    choose_max_batch_size,
    dims,
    with_serving,
)
from repo_builder.product import Product
from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.pbtxt import changed_fields, format_passage, parse_config
from tritonfleet.spec.serving import ServingSpec

__all__ = [
    "DEFAULT_MAX_BATCH_SIZE",
    "DataFile",
    "RenderedConfig",
    "choose_max_batch_size",
    "data_file_names",
    "dims",
    "read_data_files",
    "read_labels",
    "render_config",
    "template_folder",
]

ALTERNATIVES_FOLDER = "configs"
"""Where tritonserver looks for the configuration that --model-config-name names."""
_TEMPLATE_NAME = "config.pbtxt.j2"


@dataclass(frozen=True, slots=True)
class RenderedConfig:
    """The text of a config.pbtxt, what it means, and the files that belong beside it."""

    text: str
    message: Any
    files: Mapping[str, str | bytes]
    """By path in the model's folder: labels, data of warm-ups and states, other configurations."""


def template_folder() -> Path:
    """Where the templates are: inside an installed package, or in the checkout beside it."""
    package = Path(__file__).parents[1]
    installed = package / "templates"
    return installed if installed.is_dir() else package.parent / "triton_configs/templates"


def render_config(
    model: str,
    product: Product,
    serving: ServingSpec,
    labels: Mapping[str, tuple[str, ...]] | None = None,
    data_files: Mapping[str, DataFile] | None = None,
) -> RenderedConfig:
    """The checked configuration of a model; ``labels`` win over those of its source.

    Raises InvalidModelConfig when the serving options contradict the artifact.
    """
    named = {**product.labels, **(labels or {})}
    subject = Subject(model, product, serving, 0, named, data_files or {})
    main = _rendered(with_serving(subject, serving))
    files = dict(main.files)
    for name, options in serving.alternatives():
        try:
            other = _rendered(with_serving(subject, options))
        except InvalidModelConfig as error:
            cause = f"in serving.configs.{name}: {error.cause}"
            raise InvalidModelConfig(model, cause, error.hint) from error
        files |= {**other.files, f"{ALTERNATIVES_FOLDER}/{name}.pbtxt": other.text}
    return RenderedConfig(main.text, main.message, files)


def _rendered(subject: Subject) -> RenderedConfig:
    """One configuration as text, parsed back and checked."""
    expected = build_message(subject)
    files = {**label_texts(subject.labels), **data_texts(subject)}
    text = _template().render(config=expected)
    message = parse_config(subject.model, text)
    for path in changed_fields(expected, message):
        cause = f"the templates leave out or change '{path}'"
        raise subject.refuse(cause, f"See {template_folder()}.")
    check_config(subject.model, message, subject.product.signature, frozenset(files))
    return RenderedConfig(text.strip() + "\n", message, files)


@cache
def _template() -> Any:
    from google.protobuf.text_encoding import CEscape
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    # The result is no HTML: escaping is protobuf's, by the filters below.
    environment = Environment(loader=FileSystemLoader(template_folder()), undefined=StrictUndefined)
    environment.filters["quoted"] = lambda text: f'"{CEscape(text.encode(), as_utf8=False)}"'
    environment.filters["passage"] = format_passage
    return environment.get_template(_TEMPLATE_NAME)
