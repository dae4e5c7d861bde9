"""What a plugin set in its process is put back."""

import resource

from bench.evaluation.process_state import ProcessState


def test_limits_are_put_back():
    state = ProcessState(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))
        state.restore()
        assert resource.getrlimit(resource.RLIMIT_FSIZE) == before
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
