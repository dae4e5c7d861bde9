"""A picture of a run's leaderboard, for the top of a page: headless Chromium opens the report.

python benchmarks/picture.py demo --out docs/leaderboard.png
"""

from __future__ import annotations

import argparse
import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from bench.store.folder import find_run

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


def main() -> int:
    """Take the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", help="a run's folder, or its name under ./runs; with its report")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--width", type=int, default=1300)
    parser.add_argument("--height", type=int, default=1500)
    chosen = parser.parse_args()
    browser = next((path for name in NAMES if (path := shutil.which(name))), None)
    if browser is None:
        print(f"there is no Chromium here (looked for {', '.join(NAMES)})", file=sys.stderr)
        return 1
    page = find_run(chosen.run) / "report" / "index.html"
    if not page.is_file():
        print(f"{page} is not there: 'gatebench report {chosen.run}' writes it", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            browser,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/profile",
            f"--window-size={chosen.width},{chosen.height}",
            "--virtual-time-budget=10000",
            f"--screenshot={shot}",
            page.resolve().as_uri(),
        ]
        subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=120)
        # 256 colors are enough for text and bars, and keep the file small.
        picture = Image.open(shot).convert("RGB").quantize(256, dither=Image.Dither.NONE)
        data = io.BytesIO()
        picture.save(data, format="PNG", optimize=True)
        chosen.out.write_bytes(data.getvalue())
    print(f"{chosen.out}: {len(data.getvalue()) / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
