"""What is measured of a run serves the next plan's estimate, if it was work enough to measure."""

from bench.plans.estimates import LEAST_WORK, remember, speed_file, speeds


def test_small_trials_leave_what_was_measured_before():
    remember({"a": [(30.0, LEAST_WORK), (10.0, LEAST_WORK)], "b": [(5.0, LEAST_WORK - 1)]})
    assert speeds() == {"a": 20.0 / LEAST_WORK}
    remember({"a": [(500.0, 100)]})
    assert speeds() == {"a": 20.0 / LEAST_WORK}


def test_a_damaged_file_is_no_measurement():
    speed_file().parent.mkdir(parents=True, exist_ok=True)
    speed_file().write_text("{broken", encoding="utf-8")
    assert speeds() == {}
