"""What is measured of a run serves the next plan's estimate, however small it was."""

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


def test_a_damaged_file_is_no_measurement(monkeypatch, tmp_path):
    monkeypatch.setenv("GATEBENCH_HOME", str(tmp_path))
    speed_file().write_text("{broken", encoding="utf-8")
    assert speeds() == {}
