"""Code and documentation of this project, cut into pieces at blank lines.

In: the repository's root. Out: pieces of at most PIECE_BYTES, each from one file, in a stable order.
"""

PIECE_BYTES = 420
SHORTEST = 90
SKIPPED = {"target", "models", ".git", "fuzz"}


def files(root):
    """Rust sources and Markdown, sorted by path."""
    found = [path for end in ("*.rs", "*.md") for path in root.rglob(end)]
    return sorted(path for path in found if not SKIPPED & set(path.relative_to(root).parts))


def items(root):
    """All pieces of the repository."""
    return [piece for path in files(root) for piece in pieces(path.read_text(encoding="utf-8"))]


def pieces(text):
    """Neighbouring paragraphs joined as long as they fit; longer paragraphs are cut at line ends."""
    paragraphs = [cut for part in text.split("\n\n") if part.strip() for cut in fit(part.strip("\n"))]
    joined = []
    for paragraph in paragraphs:
        if joined and len(joined[-1].encode()) + len(paragraph.encode()) + 2 <= PIECE_BYTES:
            joined[-1] += "\n\n" + paragraph
        else:
            joined.append(paragraph)
    return [piece for piece in joined if len(piece.encode()) >= SHORTEST]


def fit(paragraph):
    """The paragraph in parts of at most PIECE_BYTES; a longer line is left out."""
    parts, part = [], ""
    for line in paragraph.split("\n"):
        if len(line.encode()) > PIECE_BYTES:
            continue
        if part and len(part.encode()) + len(line.encode()) + 1 > PIECE_BYTES:
            parts.append(part)
            part = ""
        part = f"{part}\n{line}" if part else line
    return [*parts, part] if part else parts


def key(line):
    """Short lines (a brace, a use) may come again."""
    return line.strip() if len(line.strip()) >= 40 else None
