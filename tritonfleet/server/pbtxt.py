"""``config.pbtxt`` as text and as Triton's own ``ModelConfig`` message.

Triton answers a broken file with "failed to poll from model repository" and nothing more; the
parser here names line and column.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

from tritonfleet.errors import InvalidModelConfig
from tritonfleet.server.layout import CONFIG_NAME

ModelConfig = model_config_pb2.ModelConfig
_TYPE_PREFIX = "TYPE_"


def parse_config(model: str, text: str) -> Any:
    """The ``ModelConfig`` of a text; InvalidModelConfig with line and column when it is none."""
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        hint = "See Triton's model configuration document for the field's name and place."
        raise InvalidModelConfig(model, f"{CONFIG_NAME} does not parse: {error}", hint) from error


def read_config(repository: Path, model: str) -> Any:
    """The published ``ModelConfig`` of a model; InvalidModelConfig when it is absent or broken."""
    path = repository / model / CONFIG_NAME
    try:
        return parse_config(model, path.read_text(encoding="utf-8"))
    except OSError as error:
        hint = f"Run 'tritonfleet build {model}'."
        raise InvalidModelConfig(model, f"{path} cannot be read: {error.strerror}", hint) from error


def format_config(config: Any) -> str:
    """A ``ModelConfig`` as canonical text."""
    return str(text_format.MessageToString(config, use_short_repeated_primitives=True))


def config_json(config: Any) -> dict[str, Any]:
    """A ``ModelConfig`` as the JSON that Triton's HTTP API gives."""
    return dict(
        json_format.MessageToDict(
            config, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    )


def datatype(config_type: int) -> str:
    """The protocol's name of a config's data type: TYPE_STRING is BYTES, TYPE_FP32 is FP32."""
    name = str(model_config_pb2.DataType.Name(config_type)).removeprefix(_TYPE_PREFIX)
    return "BYTES" if name == "STRING" else name


def config_type(datatype: str) -> str:
    """The config's name of a protocol data type: BYTES is TYPE_STRING, FP32 is TYPE_FP32."""
    return _TYPE_PREFIX + ("STRING" if datatype == "BYTES" else datatype)


def protocol_shape(config: Any, tensor: Any) -> list[int]:
    """A tensor's shape as the protocol shows it: dims, with -1 in front where there is a batch."""
    dims = list(tensor.dims)
    return [-1, *dims] if config.max_batch_size > 0 else dims
