"""What transformers makes of small chat templates: one for each construct that public templates use, and whole ones.

Oracle: jinja2 and the environment that transformers builds (requirements.txt), on 26 July 2024 at midnight.
Command: python tools/golden/all.py --out tests/golden --only templates

`snippets` are rendered over one odd conversation, `templates` over each. A case is the text, with what stands in
`generation` where it is marked, or `refused` where Jinja2 refuses. What Sapwood refuses though Jinja2 does not
stands in `unsupported`, each with a word that its refusal must name; what it writes otherwise in `different`.
"""

import datetime
import json
import re
from pathlib import Path
from unittest import mock

from jinja2 import TemplateError
from transformers.utils import chat_template_utils

from common import write_json
from template_texts import DIFFERENT, SNIPPETS, TEMPLATES, UNSUPPORTED

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>"}

TOOLS = [
    {"type": "function", "function": {"name": "set_light", "description": "Turn a light on, off & \"dim\" it <b>", "parameters": {
        "type": "object", "properties": {"room": {"type": "string", "enum": ["hall", "Küche"]}, "level": {"type": "number", "default": 1.0}},
        "required": ["room"]}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}},
]


def call(name: str, arguments: object, number: str = "call_001") -> dict:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


CONVERSATIONS = {
    "odd": {"messages": [
        {"role": "system", "content": "Be brief; it's \"5 < 6\" & 圧力\n"},
        {"role": "user", "content": "  say  hi,\thi \n"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nhi there 🙂"},
        {"role": "user", "content": "naïve “quotes” {{ braces }} \\ 'one'"},
        {"role": "assistant", "content": "line one\nline two\n"},
    ]},
    "short": {"messages": [{"role": "user", "content": "a"}]},
    "answered": {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    "greeting": {"messages": [{"role": "assistant", "content": "hello"}, {"role": "user", "content": "hi"}]},
    "empty": {"messages": []},
    "blank": {"messages": [{"role": "user", "content": ""}, {"role": "assistant", "content": "   "}]},
    "twice": {"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]},
    "tools": {"tools": TOOLS, "messages": [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "hall?"},
        {"role": "assistant", "content": "", "tool_calls": [call("set_light", {"room": "Küche", "level": 0.5})]},
        {"role": "tool", "name": "set_light", "tool_call_id": "call_001", "content": "{\"ok\": true}"},
        {"role": "assistant", "content": "done"},
    ]},
    "calls": {"tools": TOOLS[1:], "messages": [
        {"role": "user", "content": "when & where?"},
        {"role": "assistant", "tool_calls": [call("now", {}), call("set_light", {"z": None, "a": [1, True, "x"]}, "call_002")]},
        {"role": "tool", "name": "now", "tool_call_id": "call_001", "content": "noon"},
        {"role": "tool", "name": "set_light", "tool_call_id": "call_002", "content": "<ok>"},
    ]},
    "string_arguments": {"tools": TOOLS[:1], "messages": [
        {"role": "user", "content": "on"},
        {"role": "assistant", "content": None, "tool_calls": [call("set_light", "{\"room\": \"hall\"}")]},
    ]},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]},
                           {"role": "assistant", "content": [{"type": "text", "text": "three"}]}]},
    "thought": {"messages": [
        {"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "reasoning_content": "because\n"},
        {"role": "user", "content": "r"}, {"role": "assistant", "content": "b", "reasoning": "so"},
    ]},
}


class Day(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2024, 7, 26)


def rendered(template: str, conversation: dict, prompt: bool) -> dict:
    messages = [{key: value for key, value in message.items() if value is not None} for message in conversation["messages"]]
    marks = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", template) is not None
    try:
        with mock.patch.object(chat_template_utils, "datetime", Day):
            texts, spans = chat_template_utils.render_jinja_template(
                [messages], tools=conversation.get("tools"), chat_template=template, add_generation_prompt=prompt,
                return_assistant_tokens_mask=marks, **SPECIAL)
    except (TemplateError, TypeError, ValueError, AttributeError, KeyError, IndexError, ZeroDivisionError) as error:
        return {"refused": type(error).__name__}
    case = {"text": texts[0]}
    if marks:
        case["said"] = [texts[0][start:end] for start, end in spans[0] if end > start]
    return case


def write(out: Path) -> None:
    golden = {"special": SPECIAL, "conversations": CONVERSATIONS, "unsupported": UNSUPPORTED, "different": DIFFERENT,
              "snippets": [], "templates": []}
    for snippet in SNIPPETS:
        golden["snippets"].append({"template": snippet, **rendered(snippet, CONVERSATIONS["odd"], False)})
    for name, template in TEMPLATES.items():
        cases = []
        for conversation in CONVERSATIONS:
            for prompt in [False, True]:
                cases.append({"conversation": conversation, "prompt": prompt,
                              **rendered(template, CONVERSATIONS[conversation], prompt)})
        golden["templates"].append({"name": name, "template": template, "cases": cases})
    unknown = (set(UNSUPPORTED) | set(DIFFERENT)) - set(SNIPPETS)
    if unknown:
        raise SystemExit(f"named, but no snippet: {unknown}")
    folder = out / "templates"
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "expected.json", golden)


if __name__ == "__main__":
    print(json.dumps({"snippets": len(SNIPPETS), "templates": len(TEMPLATES)}))
