"""Parts that several tests share: images, servers, stores, samples, plain-loop formulas."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIPART12 = ROOT / "examples" / "clipart12"
