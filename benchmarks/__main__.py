"""All measurements as one command, each in a process of its own, as Markdown tables.

    python -m benchmarks [steps] [startup] [workers] [report]

Without names, all of them, in about ten minutes. `python -m benchmarks.NAME --help` says what one
of them measures and what it takes. Ends with 1 where a ratio or a time is above what is promised.

steps    an attack step beside the bare network, by family, depth and defense
startup  what starting a command costs beside the import of torch
workers  two workers against one
report   boards and pages of 1,000 cells, beside a quarter of them
"""

from __future__ import annotations

import argparse
import subprocess
import sys

NAMES = ("steps", "startup", "workers", "report")


def main() -> int:
    """Run those that are named; 1 where one of them ends otherwise than with 0."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(NAMES))
    chosen = parser.parse_args().names or NAMES
    for name in chosen:
        if name not in NAMES:
            parser.error(f"there is no measurement {name!r}; there are {', '.join(NAMES)}")
    held = True
    for name in chosen:
        print(f"\n## {name}\n", flush=True)
        held &= not subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
