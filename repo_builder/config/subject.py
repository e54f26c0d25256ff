"""One model on the way to its configuration: which tensors clients see, and in what shape."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from repo_builder.config.files import DataFile
from repo_builder.product import Product
from repo_builder.signature import BATCH, Shape, Signature, Tensor
from tritonfleet.errors import InvalidModelConfig, did_you_mean
from tritonfleet.spec.serving import ServingSpec

DEFAULT_MAX_BATCH_SIZE = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """One model with all that its configuration follows from."""

    model: str
    product: Product
    serving: ServingSpec
    max_batch_size: int
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    data_files: Mapping[str, DataFile] = field(default_factory=dict)

    @property
    def batched(self) -> bool:
        """Whether requests carry a batch dimension that ``dims`` leave out."""
        return self.max_batch_size > 0

    def refuse(self, cause: str, hint: str) -> InvalidModelConfig:
        """The error to raise."""
        return InvalidModelConfig(self.model, cause, hint)

    def data_file(self, where: str, dtype: str, dims: tuple[int, ...]) -> DataFile:
        """A data file that is a tensor of this type and size; InvalidModelConfig otherwise."""
        file = self.data_files[where]
        misfit = file.misfit(dtype, dims)
        if misfit:
            raise self.refuse(f"data file {misfit}", "Write it anew, or give other dimensions.")
        return file


def choose_max_batch_size(model: str, product: Product, serving: ServingSpec) -> int:
    """The declared size, or the one that follows from the artifact: 8 if it can batch, else 0.

    Raises InvalidModelConfig for a declared batch that the artifact cannot have.
    """
    declared, limit = serving.max_batch_size, product.batch_limit
    batchable = _batched_part(product.signature, serving).batchable
    if declared is None:
        if not batchable:
            return 0
        return limit if limit is not None else DEFAULT_MAX_BATCH_SIZE
    if declared > 0 and not batchable:
        cause = f"max_batch_size is {declared}, but its tensors do not share a leading batch"
        hint = "Set serving.max_batch_size: 0, or export it with 'batch' first in every shape."
        raise InvalidModelConfig(model, cause, hint)
    if limit is not None and declared > limit:
        cause = f"max_batch_size is {declared}, but one of its members takes only {limit}"
        raise InvalidModelConfig(model, cause, "Lower it, or raise the member's.")
    return declared


def with_serving(subject: Subject, serving: ServingSpec) -> Subject:
    """The same model with other options."""
    size = choose_max_batch_size(subject.model, subject.product, serving)
    return replace(subject, serving=serving, max_batch_size=size)


def dims(shape: Shape, batched: bool) -> tuple[int, ...]:
    """A shape as ``dims``: -1 for what is dynamic, and no batch where Triton adds it itself."""
    return tuple(size if isinstance(size, int) else -1 for size in shape[1 if batched else 0 :])


def _made_by_triton(serving: ServingSpec) -> Iterator[str]:
    """Inputs that clients never send: signals, states, and the shapes of ragged batches."""
    if serving.sequence_batching:
        yield from (control.name for control in serving.sequence_batching.control_input)
        yield from (state.input_name for state in serving.sequence_batching.state)
    yield from (name for given in serving.batch_input for name in given.target_name)


def declared_inputs(subject: Subject) -> list[Tensor]:
    """The inputs that clients send."""
    made = set(_made_by_triton(subject.serving))
    return [tensor for tensor in subject.product.signature.inputs if tensor.name not in made]


def declared_outputs(subject: Subject) -> list[Tensor]:
    """Clients see a state only where serving.output mentions it."""
    sequence = subject.serving.sequence_batching
    hidden = {state.output_name for state in sequence.state} if sequence else set()
    hidden -= set(subject.serving.output)
    return [tensor for tensor in subject.product.signature.outputs if tensor.name not in hidden]


def _without_batch(serving: ServingSpec) -> set[str]:
    """Tensors of a ragged batch, in which the requests' rows are joined."""
    ragged = {name for name, options in serving.input.items() if options.allow_ragged_batch}
    made = {name for given in serving.batch_input for name in given.target_name}
    return ragged | made | {name for given in serving.batch_output for name in given.target_name}


def _batched_part(signature: Signature, serving: ServingSpec) -> Signature:
    """The tensors that can have a batch dimension; of a ragged model that may be none."""
    joined = _without_batch(serving)
    if not joined:
        return signature
    inputs, outputs = (
        tuple(tensor for tensor in tensors if tensor.name not in joined)
        for tensors in (signature.inputs, signature.outputs)
    )
    return Signature(inputs, outputs) if inputs or outputs else _ALWAYS_BATCHABLE


_ALWAYS_BATCHABLE = Signature((Tensor("", "FP32", (BATCH,)),), ())


def inner_dims(subject: Subject, tensor: Tensor) -> tuple[int, ...]:
    """The dims that the backend sees."""
    batched = subject.batched and tensor.name not in _without_batch(subject.serving)
    return dims(tensor.shape, batched)


def check_known(subject: Subject, where: str, name: str, known: Iterable[str]) -> None:
    """InvalidModelConfig with a guess for a name that the artifact has not."""
    known = list(known)
    if name not in known:
        guess = did_you_mean(name, known)
        hint = f"Did you mean '{guess}'?" if guess else f"It has: {', '.join(known)}."
        raise subject.refuse(f"{where} names '{name}', which the artifact has not", hint)
