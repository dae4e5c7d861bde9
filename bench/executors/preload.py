"""What the server imports before it forks workers: all that a worker needs but plugins.

Nothing here may start a thread, touch a GPU or compute: forked processes would inherit it.
"""

import importlib

for _name in ("bench.executors.worker", "bench.evaluation.process_state", "bench.evaluation.shard"):
    importlib.import_module(_name)  # the worker first: it sets what torch reads on import
