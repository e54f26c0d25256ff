from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from tritonfleet.app import serve
from tritonfleet.doctor.cli import doctor
from tritonfleet.options import settings_options
from tritonfleet.settings import Settings


@click.command()
@settings_options
def command(**flags):
    click.echo(repr({name: value for name, value in flags.items() if value is not None}))


def run(*arguments):
    return CliRunner().invoke(command, arguments)


def options(command):
    return {option for parameter in command.params for option in parameter.opts}


def test_every_option_is_a_setting():
    assert {parameter.name for parameter in command.params} <= set(Settings.model_fields)


def test_what_is_not_given_is_left_to_the_layers_below():
    assert run().stdout == "{}\n"


def test_the_doctor_takes_every_option_of_serve():
    assert options(serve) <= options(doctor)


def test_servers_are_attached_by_name():
    told = run("--attach", "a=h:1,h:2", "--attach", "b=h:3,h:4,h:5").stdout
    assert told == "{'attach': {'a': 'h:1,h:2', 'b': 'h:3,h:4,h:5'}}\n"


@pytest.mark.parametrize("flags", [["a"], ["a=h:1,h:2", "a=h:3,h:4"]])
def test_a_server_that_is_attached_without_address_or_twice_is_refused(flags):
    result = run(*(word for flag in flags for word in ("--attach", flag)))
    assert result.exit_code == 2
    assert "--attach" in result.stderr
