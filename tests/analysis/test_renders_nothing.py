"""`cab.analysis` computes and `cab.report` renders: the analysis works without rich."""

import subprocess
import sys
from pathlib import Path

import cab.analysis


def test_the_analysis_imports_no_rich() -> None:
    names = [f"cab.analysis.{path.stem}" for path in Path(cab.analysis.__file__).parent.glob("[!_]*.py")]
    code = f"import sys\nfor name in {names}: __import__(name)\nassert 'rich' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=100)
