"""The studies are scripts beside one another: their folder is where they find each other."""

import sys

from support import ROOT

sys.path.append(str(ROOT / "studies"))
