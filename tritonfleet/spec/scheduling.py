"""Instances and how requests reach them: parts of the ``serving`` of a fleet file.

Names and structure are those of Triton's model configuration; the words of its enumerations are in
lower case and without the prefix that protobuf demands (``kind: gpu`` is ``KIND_GPU``).
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import Field

from tritonfleet.spec.base import DataType, Spec

InstanceKind: TypeAlias = Literal["auto", "cpu", "gpu", "model"]


class Resource(Spec):
    """A share of something that instances must not use all at once."""

    name: str
    count: int = Field(ge=1)
    is_global: bool = Field(
        False, alias="global", description="One for all devices, not one for each."
    )


class RateLimiter(Spec):
    """When an instance may execute, beside others that want the same resources."""

    resources: tuple[Resource, ...] = ()
    priority: int = Field(1, ge=1, description="Who executes next; 1 is the most important.")


class SecondaryDevice(Spec):
    """A deep-learning accelerator that an instance uses beside its GPU."""

    kind: Literal["nvdla"] = "nvdla"
    device_id: int = Field(0, ge=0)


class InstanceGroup(Spec):
    """So many execution instances of the model."""

    name: str | None = None
    count: int = Field(1, ge=1, description="On each of the GPUs, where there are several.")
    kind: InstanceKind = Field(
        "auto", description="Left to the server where not given: the same file serves everywhere."
    )
    gpus: tuple[int, ...] = Field((), description="All that the server has, where none is given.")
    profile: tuple[str, ...] = Field(
        (), description="TensorRT: which of the engine's optimisation profiles, by index."
    )
    passive: bool = Field(False, description="Loaded, and never given a request by the scheduler.")
    host_policy: str | None = Field(None, description="A name from the server's --host-policy.")
    secondary_devices: tuple[SecondaryDevice, ...] = ()
    rate_limiter: RateLimiter | None = None


class QueuePolicy(Spec):
    """How long and how many requests may queue inside Triton."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_microseconds: int = Field(0, ge=0, description="0 is none.")
    allow_timeout_override: bool = Field(
        False, description="A request may ask for a shorter one. Without this it is ignored."
    )
    max_queue_size: int = Field(0, ge=0, description="0 is unlimited.")


class DynamicBatching(Spec):
    """Triton's dynamic batcher: requests that wait are executed together."""

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = Field(0, ge=0)
    preserve_ordering: bool = False
    priority_levels: int = Field(0, ge=0, description="Level 1 is served first.")
    default_priority_level: int = Field(0, ge=0)
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: dict[int, QueuePolicy] = Field(default_factory=dict)


class Control(Spec):
    """One signal of the sequence batcher; values not given follow from the input's own type."""

    kind: Literal["start", "ready", "end", "corrid"]
    int32_false_true: tuple[int, int] | None = None
    fp32_false_true: tuple[float, float] | None = None
    bool_false_true: tuple[bool, bool] | None = None
    data_type: DataType | None = Field(None, description="For 'corrid' only.")


class ControlInput(Spec):
    """An input that Triton fills in; clients do not send it."""

    name: str
    control: tuple[Control, ...] = Field(min_length=1)


class InitialState(Spec):
    """What a state holds before a sequence's first request."""

    name: str
    data_type: DataType | None = Field(None, description="The state's own where not given.")
    dims: tuple[int, ...] = Field(min_length=1)
    data_file: str | None = Field(
        None, description="Raw bytes or .npy, relative to the fleet file; zeros where not given."
    )


class SequenceState(Spec):
    """An output that comes back as an input with the sequence's next request."""

    input_name: str
    output_name: str
    data_type: DataType | None = Field(None, description="The artifact's where not given.")
    dims: tuple[int, ...] | None = Field(None, description="The artifact's where not given.")
    initial_state: tuple[InitialState, ...] = ()
    use_same_buffer_for_input_output: bool = False
    use_growable_memory: bool = False


class DirectStrategy(Spec):
    """Every sequence keeps a batch slot of one instance until it ends."""

    max_queue_delay_microseconds: int = Field(0, ge=0)
    minimum_slot_utilization: float = Field(0, ge=0, le=1)


class OldestStrategy(Spec):
    """Requests of the oldest sequences are batched dynamically."""

    max_candidate_sequences: int = Field(ge=1)
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_microseconds: int = Field(0, ge=0)
    preserve_ordering: bool = False


class SequenceBatching(Spec):
    """Triton's sequence batcher: requests of one sequence go to one instance, in order."""

    direct: DirectStrategy | None = None
    oldest: OldestStrategy | None = None
    max_sequence_idle_microseconds: int = Field(
        0, ge=0, description="A sequence idle for longer is ended; 0 is one second."
    )
    control_input: tuple[ControlInput, ...] = ()
    state: tuple[SequenceState, ...] = ()
    iterative_sequence: bool = Field(
        False,
        description="A request is executed again and again until the model is done.",
    )
