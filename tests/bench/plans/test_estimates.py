"""What is measured of a run serves the next plan's estimate, however small it was."""

import os

import pytest

from bench.plans.estimates import LEAST_WORK, Speed, remember, speed_file, speeds


def test_small_trials_leave_what_was_measured_before(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    remember({"a": [(30.0, LEAST_WORK), (10.0, LEAST_WORK)], "b": [(5.0, 10)]})
    a, b = Speed(20.0 / LEAST_WORK, 2 * LEAST_WORK), Speed(0.5, 10)
    assert speeds() == {"a": a, "b": b}
    assert b.is_rough
    assert not a.is_rough
    remember({"a": [(500.0, 100)], "b": [(4.0, 20)], "c": []})
    assert speeds() == {"a": a, "b": Speed(0.2, 20)}


def test_what_an_earlier_version_kept_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    speed_file().write_text('{"a": 0.25, "b": "x", "c": [0.5, 0], "d": [0.5, 7, 1]}')
    assert speeds() == {"a": Speed(0.25, LEAST_WORK)}


ODD = {
    "negative": '{"a": -0.25, "b": [-1.0, 7]}',
    "huge": '{"a": 1e300, "b": [1e300, 7]}',
    "infinite": '{"a": Infinity}',
    "negative-work": '{"a": "x", "b": [0.5, -7]}',
    "deep": "[" * 100_000,
}


@pytest.mark.parametrize("case", ODD)
def test_what_cannot_be_meant_is_no_measurement(monkeypatch, tmp_path, case):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    speed_file().write_text(ODD[case])
    assert speeds() == {}


def test_a_pipe_in_its_place_stops_nobody(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    os.mkfifo(speed_file())
    assert speeds() == {}


def test_a_damaged_file_is_no_measurement(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    speed_file().write_text("{broken", encoding="utf-8")
    assert speeds() == {}
