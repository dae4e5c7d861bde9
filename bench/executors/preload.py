"""What the server imports before it forks workers: all that a worker needs but plugins.

Nothing here may start a thread, touch a GPU or compute: forked processes would inherit it.
"""

import importlib
import sys
from types import TracebackType

for _name in ("bench.executors.worker", "bench.evaluation.process_state", "bench.evaluation.shard"):
    importlib.import_module(_name)  # the worker first: it sets what torch reads on import


def _without_lost_clients(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Say nothing where a program was killed while it asked the server for a process.

    The server ends then, since nobody else asks it. It would print a traceback on the terminal of
    the program that is gone.
    """
    if not isinstance(error, EOFError | ConnectionError):
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _without_lost_clients
