from __future__ import annotations

import json

from fleet_perf import environment


def test_the_environment_is_plain_data_and_complete():
    found = environment.describe()
    assert json.loads(json.dumps(found)) == found
    assert found["packages"]["tritonfleet"]
    assert found["usable_cores"] >= 1
    assert len(found["load_average"]) == 3


def test_packages_that_are_not_installed_have_no_version(monkeypatch):
    monkeypatch.setattr(environment, "_PACKAGES", ("no-such-package-here",))
    assert environment.describe()["packages"] == {"no-such-package-here": None}


def test_outside_a_checkout_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(environment, "_git", lambda *_: None)
    assert environment.describe()["commit"] is None


def test_a_checkout_with_changes_is_marked(monkeypatch):
    answers = {"rev-parse": "abc", "status": " M file"}
    monkeypatch.setattr(environment, "_git", lambda verb, *_: answers[verb])
    assert environment.describe()["commit"] == "abc+"


def test_a_busy_machine_is_warned_of():
    assert environment.busy({"load_average": [0.5, 9, 9], "usable_cores": 2}) is None
    warning = environment.busy({"load_average": [1.5, 0, 0], "usable_cores": 2})
    assert warning is not None
    assert "load 1.5 on 2 cores" in warning
