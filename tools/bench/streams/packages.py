"""Packages as folders, never installed: downloaded by their own clients and unpacked into a scratch folder.

In: names such as `apt:manpages`, `npm:@scope/name@1.2.3`, `pip:name` (its version is in requirements.txt).
Out: a `Package`: its folder, its name with its version, the files that hold its licence.
"""

import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

REQUIREMENTS = Path(__file__).with_name("requirements.txt")


@dataclass(frozen=True)
class Package:
    folder: Path
    label: str
    licences: tuple[Path, ...]

    def files(self, pattern: str) -> list[Path]:
        """Regular files by their place in the package, sorted; a pattern that finds none is an error."""
        found = sorted(path for path in self.folder.glob(pattern) if path.is_file() and not path.is_symlink())
        if not found:
            raise SystemExit(f"{self.label}: expected files like {pattern}, found none")
        return found


class Packages:
    """Fetches each package once into `scratch`."""

    def __init__(self, scratch: Path):
        self.scratch, self.fetched = scratch, {}

    def get(self, name: str) -> Package:
        if name not in self.fetched:
            folder = self.scratch / str(len(self.fetched))
            folder.mkdir(parents=True)
            kind, package = name.split(":", 1)
            self.fetched[name] = {"apt": debian, "npm": npm, "pip": wheel}[kind](package, folder)
        return self.fetched[name]


def debian(name: str, folder: Path) -> Package:
    run(folder, "apt-get", "download", name, hint="run `apt-get update` first")
    (archive,) = folder.glob("*.deb")
    version = run(folder, "dpkg-deb", "--field", str(archive), "Version").strip()
    run(folder, "dpkg-deb", "--extract", str(archive), "root")
    archive.unlink()
    licence = folder / "root/usr/share/doc" / name / "copyright"
    return Package(folder / "root", f"Debian package {name} {version}", (licence,))


def npm(name: str, folder: Path) -> Package:
    run(folder, "npm", "pack", "--silent", name)
    (archive,) = folder.glob("*.tgz")
    run(folder, "tar", "--extract", "--file", str(archive))
    archive.unlink()
    root, (package, version) = folder / "package", name.rsplit("@", 1)
    return Package(root, f"npm package {package} {version}", tuple(sorted(root.glob("LICEN[CS]E*"))))


def wheel(name: str, folder: Path) -> Package:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
    run(folder, *pip, "--requirement", str(REQUIREMENTS))
    (archive,) = folder.glob(f"{name.replace('-', '_')}-*.whl")
    with zipfile.ZipFile(archive) as wheel_file:
        wheel_file.extractall(folder / "root")
    version = archive.name.split("-")[1]
    licences = sorted((folder / "root").glob("*.dist-info/**/COPYING*"))
    return Package(folder / "root", f"PyPI package {name} {version}", tuple(licences))


def run(folder: Path, *command: str, hint: str = "") -> str:
    try:
        done = subprocess.run(command, cwd=folder, text=True, capture_output=True, check=False)
    except FileNotFoundError:
        raise SystemExit(f"{command[0]} is missing") from None
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed{'; ' + hint if hint else ''}\n{done.stderr.strip()}")
    return done.stdout
