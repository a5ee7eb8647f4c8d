"""Writes every golden file; a second run gives identical bytes.

Oracle and versions: requirements.txt; each script says its own.
Command: python tools/golden/all.py --out tests/golden [--only families,step]
"""

import argparse
import importlib
from pathlib import Path

SCRIPTS = ["families", "step", "adapters", "graphs", "tokens", "frames", "patterns", "templates", "fleet", "merge", "robust", "study", "gguf_files", "conversions", "sampling"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write into, usually tests/golden")
    parser.add_argument("--only", default=",".join(SCRIPTS), help="scripts to run, separated by commas")
    arguments = parser.parse_args()
    for name in arguments.only.split(","):
        if name not in SCRIPTS:
            raise SystemExit(f"unknown script {name!r}, expected one of {SCRIPTS}")
        importlib.import_module(name).write(arguments.out)
        print(f"{name}: written under {arguments.out}")


if __name__ == "__main__":
    main()
