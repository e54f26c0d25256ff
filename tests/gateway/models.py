"""A fleet of one model of every kind: what its clients may ever meet, of which not all fits."""

from __future__ import annotations

import json
import textwrap

from tests.tiny import adder_fleet, write_ensemble
from tritonfleet.gateway.envoy.files import run_folder

ADDERS = {"adder": "40MiB", "other": "40MiB", "third": "40MiB"}
OTHERS = {
    "words": "10MiB",
    "counter": "10MiB",
    "slow": "10MiB",
    "refuser": "10MiB",
    "totals": "50MiB",  # so that it is the first to go where two adders are wanted
}
IDLE_MICROSECONDS = 6_000_000
"""So long Triton keeps the state of a sequence."""

_NUMBER = """
input [ { name: "x" data_type: TYPE_INT32 dims: [ 1 ] } ]
output [ { name: "y" data_type: TYPE_INT32 dims: [ 1 ] } ]
"""
_HEAD = """\
import time
import numpy
import triton_python_backend_utils as pb_utils

def given(request, name="x"):
    return pb_utils.get_input_tensor_by_name(request, name).as_numpy()

def answer(**tensors):
    return pb_utils.InferenceResponse(
        [pb_utils.Tensor(name, value) for name, value in tensors.items()]
    )

def number(value):
    return answer(y=numpy.array([value], numpy.int32))

class TritonPythonModel:
    totals = {}

    def execute(self, requests):
        return [self.one(request) for request in requests]

"""
_WORDS = """\
    def one(self, request):
        words = given(request)
        upper = numpy.array([word.upper() for word in words.flat], numpy.object_)
        length = numpy.array([len(word) for word in words.flat], numpy.int32)
        return answer(upper=upper.reshape(words.shape), length=length.reshape(words.shape))
"""
_COUNTER = """\
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for value in range(int(given(request).flat[0])):
                if request.is_cancelled():
                    open("{marker}", "w").close()
                    break
                time.sleep(0.01 if value > 99 else 0)
                sender.send(number(value))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
_TOTALS = """\
    def one(self, request):
        sequence = int(given(request, "id").flat[0])
        before = 0 if given(request, "start").flat[0] else self.totals[sequence]
        self.totals[sequence] = before + int(given(request).flat[0])
        return number(self.totals[sequence])
"""
_SLOW = """\
    def one(self, request):
        time.sleep(float(given(request).flat[0]) / 1000)
        return number(0)
"""
_REFUSER = """\
    def one(self, request):
        kind = int(given(request).flat[0])
        if kind == 0:  # as is asked to prove that it answers at all
            return number(0)
        with open("{marker}", "a") as file:
            file.write("x")
        text, code = [
            ("there is no such page", pb_utils.TritonError.NOT_FOUND),
            ("Request for unknown model: 'adder' is not found", pb_utils.TritonError.NOT_FOUND),
            ("try again later", pb_utils.TritonError.UNAVAILABLE),
        ][kind - 1]
        return pb_utils.InferenceResponse(error=pb_utils.TritonError(text, code))
"""
_SEQUENCE = f"""\
sequence_batching {{
  oldest {{ max_candidate_sequences: 8 }}
  max_sequence_idle_microseconds: {IDLE_MICROSECONDS}
  control_input [
    {{ name: "start" control [ {{ kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "id" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }} ]
}}
"""
_WORDS_CONFIG = """
max_batch_size: 8
input [ { name: "x" data_type: TYPE_STRING dims: [ -1 ] } ]
output [
  { name: "upper" data_type: TYPE_STRING dims: [ -1 ] },
  { name: "length" data_type: TYPE_INT32 dims: [ -1 ] } ]
dynamic_batching { priority_levels: 2 default_priority_level: 2 }
"""
_ENSEMBLE = """
  both:
    source: {kind: ensemble, steps: [{model: adder}, {model: other}], outputs: [y]}
"""


def write_python(repository, name, code, config=_NUMBER):
    """Publishes a model that is a few lines of Python."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(_HEAD + code)
    head = f"""\
        name: "{name}"
        backend: "python"
        instance_group [ {{ count: 1 kind: KIND_CPU }} ]
        """
    (repository / name / "config.pbtxt").write_text(textwrap.dedent(head) + config)


def every_kind(path):
    """A fleet in which two of the three adders fit beside four of the others, and never all."""
    others = [
        f"\n  {name}: {{residency: {{footprint: {footprint}}}, source: *adder}}"
        for name, footprint in OTHERS.items()
    ]
    spec = adder_fleet(path, ADDERS, capacity="120MiB", extra="".join(others) + _ENSEMBLE)
    repository = path / "repository"
    write_python(repository, "words", _WORDS, _WORDS_CONFIG)
    counter = _COUNTER.replace("{marker}", str(cancelled(path)))
    write_python(
        repository, "counter", counter, _NUMBER + "model_transaction_policy { decoupled: true }"
    )
    write_python(repository, "totals", _TOTALS, _NUMBER + _SEQUENCE)
    write_python(repository, "slow", _SLOW)
    write_python(repository, "refuser", _REFUSER.replace("{marker}", str(executions(path))))
    write_ensemble(repository, "both", "adder", "other")
    models = {name: model for name, model in spec.models.items() if name != "template_"}
    return spec.model_copy(update={"models": models})


def cancelled(path):
    """Where ``counter`` notes that it was told to stop."""
    return path / "cancelled"


def executions(path):
    """Where ``refuser`` leaves a letter for each time that it has run."""
    return path / "executions"


def published(served):
    """The models that Envoy may send directly."""
    file = run_folder(served.fleet.settings.state_dir) / "residency.json"
    layer = json.loads(file.read_bytes())["resources"][0]["layer"]
    return {key.split("|")[2] for key in layer if key.startswith("resident|")}
