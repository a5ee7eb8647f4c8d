"""What Python's re makes of the patterns that people and strangers write into adapter_config.json.

Oracle: re.fullmatch of CPython; the version is in the file. Null: Python refuses the pattern.
Command: python tools/golden/all.py --out tests/golden --only patterns
"""

import platform
import re
import warnings
from pathlib import Path

from common import write_json

NAMES = [
    "model.layers.12.self_attn.q_proj",
    "model.layers.3.mlp.down_proj",
    "layers.0.self_attn.v_proj",
    "q_proj",
    "down_proj_q",
    "aaa",
    "a",
    "a-b",
    "",
]

# Means the same to a linear matcher: to be read, with Python's verdicts.
READ = [
    r".*\.(q|v)_proj", r".*q_proj", r"q_proj", r"(.*\.)?(q_proj)$", r"(.*\.)?(_proj)$", "", "|a", "(|a)+", "()", "(?:)*a",
    r"(.*\.)?(^model.layers.12.self_attn.q_proj)$", r"(.*\.)?(^layers.12.self_attn.q_proj)$",
    r"model\.layers\.\d+\..*_proj", r"model\.layers\.\d\..*_proj", r"model\.layers\.(1|12)\.(?:self_attn|mlp)\.[qkv]_proj",
    r".*layers\.1[0-2]\.[^.]*\.q.*?", r".*layers\.1[^0-2]\..*", r"model\.layers\.\d{2}\.\w+\.q_proj",
    r"model\.layers\.\d{3,}\.\w+\.q_proj", r"(model|)(\.[a-z0-9_]+){1,4}", r"(model|)(\.[a-z0-9_]+){1,3}",
    r"((m*)*)*odel.*", r"(?P<x>model).*[]_-]proj", r"a{0}model.*", r".*\Dq_proj|nothing", r"a{,2}", r"a{,3}", r"a{,}", r"a{2,}?",
    r"\Amodel.*\Z", r".*\Z", r"a\Z|q_proj\Z", r".*\bq_proj", r".*\bproj", r".*\Bproj", r"\Ba", r"a\b", r".*\b",
    r"(?:.*?(?:self_attn|mlp).*?(?:q_proj|down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:mlp)\.(?:(?:down_proj)))",
    r"[[a]+", r"[a&&b]", r"[a~~b]-b", r"a[--/]b", r"a[+-/]b", r"a[-]b", r"a[\-]b", r"a[b-]b", r"a[\d-]b", r"[\w.]+", r"[^\W_]+", r"[\S]+",
    r"[]a-]*", r"[^]]*", r"[\]a]*", r"[\ba]*", r"[:alpha:]+", r"[[:alpha:]]", r"[a-c-]*", r"\<a\>", r"a\-b", r"a-b", r"\ba", r"a|\.", "a#", "a b",
    r"}", r"]", r"a}", r"(a|aa)+", r"(a|aa)+?", r"(a??)a", r"a+?", r"a*?a", r"(?:a+)+", r"(^a)*", r"(?:^)*a", r"(\ba)+", r"$", r"a$$", r"^^a",
    r".{3}", r".{32}", r".{1,3}\Z", r"a.b", r"[.]", r"\.", r"\s*a\s*", r"\S+", r"[a-z_.0-9]+", r"[+--]*a[+--]b", r"[!-~]+",
]

# Python reads these; here they are refused, for a linear matcher has no such thing or reads it otherwise.
REFUSED = [
    r".*(?!q)_proj", r"(?=a).*", r"(?<=a)a", r"(?<!a)a", r"(a)\1", r"(?P<x>a)(?P=x)", r"(?i)A", r"(?i:A)", r"(?x) a", r"(?s).*", r"(?-i:a)",
    r"a++", r"a*+", r"a?+a", r"a{1,2}+", r"(?>a+)", r"(?#note)a", r"(a)?(?(1)a|b)", r"\x61", r"\u0061", r"\U00000061", r"\141", r"\0",
    r"\N{LATIN SMALL LETTER A}", r"\t", r"[\n]", r"a{", r"a{ 2}", r"a{2 }", r"a{x}", r"{a}", r"\b{start}a", r"a{2", r"a{1, 3}", "ä", r"[ä]",
]

# Wrong to Python too.
BROKEN = [
    r"*a", r"a**", r"a???", r"a{2}{3}", r"a*{2}", r"a{2,1}", r"a{99999999999}", r"^*a", r"$+", r"\b*a", r"\b{2}a", r"\A?a", r"(*a)", r"a|*", r"(q_proj",
    r"q_proj)", r"a)|(?:b", r"(?:a", r"[a-", r"[ab", r"[", r"[]", r"[^]", r"[z-a]", r"[\w-a]", r"[a-\d]", "a\\", "[\\", r"\p{L}", r"\z", r"\pL", r"\Q",
    r"\x{61}", r"\u{61}", r"[\Z]", r"[\B]", r"(?<x>a)", r"(?P<1>a)", r"(?P<>a)", r"(?P<a.b>a)", r"(?P<a", r"(?P<x>a)(?P<x>a)", r"(?P>x)", r"(?U)a", r"(?",
    r"(?R)a", r"a(?i)", r"(?a-u:b)", r"[a--b]", r"\1", r"\8", r"\c", r"\g<1>",
]


def verdicts(pattern: str) -> str | None:
    """1 or 0 for each name."""
    try:
        return "".join("01"[re.fullmatch(pattern, name) is not None] for name in NAMES)
    except (re.error, OverflowError):
        return None


def write(out: Path) -> None:
    warnings.simplefilter("ignore", FutureWarning)
    table = {kind: {pattern: verdicts(pattern) for pattern in patterns}
             for kind, patterns in [("read", READ), ("refused", REFUSED), ("broken", BROKEN)]}
    for kind, expected in [("read", False), ("refused", False), ("broken", True)]:
        for pattern, found in table[kind].items():
            if (found is None) != expected:
                raise SystemExit(f"{pattern!r} is not {kind}: {found}")
    folder = out / "patterns"
    facts = {"python": platform.python_version(), "names": NAMES, **table}
    write_json(folder / "patterns.json", facts)
