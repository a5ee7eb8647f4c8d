"""Markup to plain text. Standard library only.

In: the text of a manual page (man macros), of an HTML page, or of paragraphs with blank lines between.
Out: sections, each a heading and its paragraphs; no paragraph has a blank line.
`passages` makes items of them. Try: python3 -m doctest plain.py
"""

import re
from html.parser import HTMLParser

PASSAGE_BYTES_MAX = 2000

Section = tuple[str, list[str]]


def passages(title: str, sections: list[Section]) -> list[str]:
    """Items of at most PASSAGE_BYTES_MAX, unless one line is longer; the first of a section has its heading.

    >>> passages("tcp(7)", [("NAME", ["tcp - TCP protocol"]), ("EMPTY", [])])
    ['tcp(7): NAME\\ntcp - TCP protocol']
    """
    items = []
    for heading, section in sections:
        lines = [f"{title}: {heading}".strip(": ")] if title or heading else []
        begun = len(lines)
        for part in (part for paragraph in section for part in parts(paragraph)):
            bytes_after = sum(len(line.encode()) + 1 for line in lines) + len(part.encode())
            if len(lines) > begun and bytes_after > PASSAGE_BYTES_MAX:
                items.append("\n".join(lines))
                lines, begun = [], 0
            lines.append(part)
        if len(lines) > begun:
            items.append("\n".join(lines))
    return items


def parts(paragraph: str) -> list[str]:
    """A paragraph whole, or line by line where it is too long for one item."""
    return [paragraph] if len(paragraph.encode()) <= PASSAGE_BYTES_MAX else paragraph.split("\n")


def paragraphs(text: str) -> list[str]:
    """What blank lines separate.

    >>> paragraphs("one\\n two\\n \\n\\nthree\\n")
    ['one\\n two', 'three']
    """
    return [part.strip("\n") for part in re.split(r"\n(?:[ \t]*\n)+", text) if part.strip()]


# Manual pages: groff_man(7), groff_char(7).

CHARACTERS = {
    "aq": "'", "dq": '"', "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "Bq": "„", "Fo": "«", "Fc": "»",
    "bu": "•", "em": "—", "en": "–", "hy": "-", "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "co": "©",
    "->": "→", "<-": "←", "<=": "≤", ">=": "≥", "!=": "≠", "mu": "×", "+-": "±", "de": "°", "sc": "§",
    "S2": "²", "12": "½", "Eu": "€", "ss": "ß", ":a": "ä", ":o": "ö", ":u": "ü", ":A": "Ä", ":O": "Ö", ":U": "Ü",
    "'e": "é", "Aq": "'", "at": "@", "sh": "#", "Do": "$", "lB": "[", "rB": "]", "or": "|", "sl": "/",
}
ESCAPE = re.compile(
    r"""\\(?:f(?:\[[^\]]*\]|\(..|.)|n[+-]?(?:\[[^\]]*\]|\(..|.)|s[+-]?\d|[mF](?:\[[^\]]*\]|.)|[hvwXZ]'[^']*'"""
    r"""|\*?(?:\[(?P<long>[^\]]*)\]|\((?P<two>..))|\*.|(?P<one>.))"""
)
ONE = {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", "\\": "\\", ".": ".", "'": "'", "`": "`", "t": "\t"}
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s\\])+)')
ALTERNATING = {"BR", "RB", "BI", "IB", "IR", "RI"}
BREAKS = {"PP", "P", "LP", "HP", "TP", "TQ", "IP", "sp", "br", "RS", "RE", "UE", "ME", "SY", "YS", "ce"}
BULLETS = {"•", "*", "-", "o", "–"}


def unescaped(text: str) -> str:
    r"""Text without troff's escapes.

    >>> unescaped(r"\fBmount\fP(8) \(buf \-\-all \*(Aqx\*(Aq e.g\&. \" why")
    "mount(8) •f --all 'x' e.g. "
    """

    def plain(match: re.Match) -> str:
        named = match["long"] or match["two"]
        if named:
            code = re.fullmatch(r"u([0-9A-Fa-f]{4,5})", named)
            return chr(int(code[1], 16)) if code else CHARACTERS.get(named, "")
        return ONE.get(match["one"] or "", "")

    return ESCAPE.sub(plain, re.sub(r'\\["#].*', "", text))


def arguments(rest: str) -> list[str]:
    """What a request is given: words, or strings in quotes."""
    return [unescaped(word or quoted.replace('""', '"')) for quoted, word in ARGUMENT.findall(rest)]


class Manual:
    """Collects the sections of one page, line by line."""

    def __init__(self):
        self.sections: list[Section] = []
        self.words: list[str] = []
        self.filled, self.tag, self.bullet = True, False, False

    def flush(self) -> None:
        joined = " ".join(self.words) if self.filled else "\n".join(self.words)
        if joined.strip() and self.sections:
            self.sections[-1][1].append(("- " if self.bullet else "") + joined)
            self.bullet = False
        self.words = []

    def say(self, text: str) -> None:
        text = " ".join(text.split()) if self.filled else text.rstrip()
        if text:
            self.words.append(text)
        if self.tag:
            self.flush()
            self.tag = False

    def request(self, name: str, rest: str) -> None:
        given = arguments(rest)
        if name in ("SH", "SS"):
            self.flush()
            self.sections.append((" ".join(given), []))
        elif name in BREAKS:
            self.flush()
            self.tag = name in ("TP", "TQ")
            if name == "IP" and given:
                self.bullet = given[0] in BULLETS
                if not self.bullet:
                    self.say(given[0])
                    self.flush()
        elif name in ("nf", "EX", "fi", "EE"):
            self.flush()
            self.filled = name in ("fi", "EE")
        elif name in ALTERNATING or name in ("UR", "URL"):
            self.say("".join(given))
        elif name in ("B", "I", "R", "SM", "SB"):
            self.say(" ".join(given))


def man(text: str) -> list[Section]:
    r"""Sections of a page in man macros; none for a page in mdoc macros or one that only names another.

    >>> man('.TH X 1\n.SH NAME\nx \\- does\nit\n.TP\n.BR \\-a , \\-\\-all\nEverything.\n')
    [('NAME', ['x - does it', '-a,--all', 'Everything.'])]
    """
    if re.search(r"^\.\s*Dd\b", text, re.M):
        return []
    page, depth, until = Manual(), 0, None
    for line in text.split("\n"):
        if until:
            until = None if line.startswith(until) else until
            continue
        request = re.match(r"[.'][ \t]*([^ \t\\]*)[ \t]*(.*)", line)
        conditional = bool(request) and request[1] in ("if", "ie", "el")
        if depth or conditional:
            # What depends on the output device is left out, with everything between \{ and \}.
            depth += line.count(r"\{") - line.count(r"\}")
        elif request and request[1] in ("de", "TS", "EQ", "ig", "am"):
            until = {"TS": ".TE", "EQ": ".EN"}.get(request[1], "..")
        elif request:
            page.request(request[1], request[2])
        elif not line.strip():
            page.flush()
        else:
            page.say(unescaped(line))
    page.flush()
    return page.sections


# HTML.

HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
BLOCKS = {"p", "li", "dt", "dd", "tr", "div", "pre", "table", "ul", "ol", "dl", "blockquote", "br", "hr", "body"}
UNSEEN = {"script", "style", "svg", "title", "form", "select"}


class Html(HTMLParser):
    """Collects the sections of one page; what is in UNSEEN, or in an element of a class of `without`, is left out."""

    def __init__(self, without: tuple[str, ...]):
        super().__init__(convert_charrefs=True)
        self.without = set(without)
        self.sections: list[Section] = [("", [])]
        self.text, self.heading, self.pre = "", False, False
        self.unseen, self.depth = "", 0

    def flush(self) -> None:
        text, self.text = self.text, ""
        found = paragraphs(text) if self.pre else [" ".join(text.split())]
        self.sections[-1][1].extend(part for part in found if part.strip(" -|"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        marks = {value for key, value in attrs if key in ("class", "id")}
        if self.unseen:
            self.depth += tag == self.unseen
        elif tag in UNSEEN or self.without & marks:
            self.unseen, self.depth = tag, 1
        elif tag in HEADINGS:
            self.flush()
            self.heading = True
        elif tag in BLOCKS and not (self.pre and tag == "br"):
            self.flush()
            self.pre = self.pre or tag == "pre"
            self.text = "- " if tag == "li" else ""
        elif tag in ("td", "th") and self.text.strip():
            self.text += " | "

    def handle_endtag(self, tag: str) -> None:
        if self.unseen:
            self.depth -= tag == self.unseen
            self.unseen = self.unseen if self.depth else ""
        elif tag in HEADINGS and self.heading:
            self.sections.append((" ".join(self.text.split()), []))
            self.text, self.heading = "", False
        elif tag in BLOCKS:
            self.flush()
            self.pre = self.pre and tag != "pre"

    def handle_data(self, data: str) -> None:
        if not self.unseen:
            self.text += data


def html(text: str, without: tuple[str, ...] = ()) -> list[Section]:
    """Sections of a page, by its headings.

    >>> html("<h1>A <i>b</i></h1><p>one<p>two<ul><li>x</ul><pre>a\\n  b</pre>")
    [('', []), ('A b', ['one', 'two', '- x', 'a\\n  b'])]
    """
    page = Html(without)
    page.feed(text)
    page.close()
    page.flush()
    return page.sections
