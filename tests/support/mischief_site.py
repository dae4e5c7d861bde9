"""Where the plugins of the contract tests lie."""

from pathlib import Path

SITE = Path(__file__).resolve().parents[1] / "contract" / "site"
"""A folder for PYTHONPATH: a distribution "mischief" with good and malicious plugins, and "rival",
which takes one of its names."""
