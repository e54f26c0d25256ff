"""What the command line makes of its options, and asks the control API for."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from click.testing import CliRunner

from tritonfleet.commands import rollout

STATUS = {"model": "bert", "stable": 2, "canary": None, "versions": []}


class Control(BaseHTTPRequestHandler):
    """Notes what it is asked, and answers how things stand."""

    def do_GET(self):
        self.answer(None)

    def do_POST(self):
        self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def answer(self, body):
        self.server.asked.append((self.command, self.path, body))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(STATUS).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def control():
    with HTTPServer(("127.0.0.1", 0), Control) as server:
        server.asked = []
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def run(control, *arguments):
    url = f"http://127.0.0.1:{control.server_address[1]}"
    return CliRunner().invoke(rollout, [*arguments, "--control", url])


@pytest.mark.parametrize(
    ("options", "wish"),
    [
        ((), None),
        (("--version", "3"), {"action": "start", "version": 3}),
        (("--percent", "5"), {"action": "canary", "percent": 5.0}),
        (("--percent", "0"), {"action": "canary", "percent": 0.0}),
        (
            ("--version", "3", "--percent", "5"),
            {"action": "canary", "version": 3, "percent": 5.0},
        ),
        (("--promote",), {"action": "promote"}),
        (("--rollback",), {"action": "rollback"}),
        (("--rollback", "--version", "1"), {"action": "rollback", "version": 1}),
    ],
)
def test_a_rollout_asks_for_what_its_options_say(control, options, wish):
    answer = run(control, "bert", *options)
    assert answer.exit_code == 0, answer.output
    assert control.asked == [("POST" if wish else "GET", "/v1/models/bert/rollout", wish)]
    assert "stable: 2" in answer.output
    assert "canary: -" in answer.output


def test_a_script_gets_the_answer_as_it_is(control):
    assert json.loads(run(control, "bert", "--json").stdout) == STATUS


@pytest.mark.parametrize(
    "options",
    [
        ("--promote", "--rollback"),
        ("--promote", "--version", "3"),
        ("--promote", "--percent", "0"),
        ("--rollback", "--percent", "5"),
        ("--version", "0"),
        ("--percent", "101"),
    ],
)
def test_options_that_contradict_each_other_ask_for_nothing(control, options):
    assert run(control, "bert", *options).exit_code == 2
    assert control.asked == []
