"""Clients for Python against a device that runs: what each can do, and what is refused by name.

Called by `tools/clients/run`, with a folder for what is thrown away and the model's; the address is in OPENAI_BASE_URL. A line
a check; the exit code is 1 where one fails. A call that is forced must fit, whatever the model is.
"""

import importlib.metadata
import json
import os
import pathlib
import subprocess
import sys
import time
from typing import Annotated

import jsonschema
import openai
from pydantic import BaseModel, Field

PLACE, FOLDER = map(pathlib.Path, sys.argv[1:3])
MODEL = "sapwood"
BASE_URL = os.environ["OPENAI_BASE_URL"]
# What is known of a prompt is rounded otherwise than what is read, by which a near tie may be decided.
ANEW = {"cache_prompt": False}
MESSAGES = [{"role": "user", "content": "How warm is the hall?"}]
PARAMETERS = {
    "type": "object",
    "properties": {
        "room": {"enum": ["hall", "cellar"]},
        "hours": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 23}, "maxItems": 3},
    },
    "required": ["room", "hours"],
    "additionalProperties": False,
}
HEAT = {"type": "function", "function": {"name": "read_heat", "description": "Of a room.", "parameters": PARAMETERS}}
NOW = {"type": "function", "function": {"name": "now", "description": "The time."}}
CHECKS = []


def check(package, name):
    def keep(function):
        CHECKS.append((package, name, function))
        return function

    return keep


def fits(call):
    """Whether a call is one of the functions above, with arguments that fit."""
    arguments = json.loads(call.function.arguments)
    schema = {"read_heat": PARAMETERS, "now": {"type": "object", "maxProperties": 0}}[call.function.name]
    jsonschema.validate(arguments, schema)
    return arguments


def refused(call, kind, *words):
    try:
        call()
    except kind as error:
        missing = [word for word in words if word not in str(error)]
        assert not missing, f"{missing} not in {error}"
    else:
        raise AssertionError("it was not refused")


client = openai.OpenAI(max_retries=0)


@check("openai", "models")
def models():
    assert MODEL in [one.id for one in client.models.list()]


@check("openai", "chat, streamed and whole alike")
def chat():
    ask = {"model": MODEL, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    whole = client.chat.completions.create(**ask, extra_body=ANEW)
    parts = client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True},
                                           extra_body=ANEW)
    parts = list(parts)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage.completion_tokens == whole.usage.completion_tokens == 12


@check("openai", "JSON schema, by a class")
def schema():
    class Reading(BaseModel):
        room: Annotated[str, Field(max_length=8)]
        celsius: Annotated[int, Field(ge=-20, le=40)]
        note: Annotated[str, Field(max_length=8)] | None

    answer = client.chat.completions.parse(
        model=MODEL, messages=MESSAGES, response_format=Reading, seed=1
    )
    assert isinstance(answer.choices[0].message.parsed, Reading)


@check("openai", "tools, forced: 8 calls fit")
def forced():
    for seed in range(8):
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[HEAT, NOW], tool_choice="required", seed=seed, temperature=1.2
        )
        choice = answer.choices[0]
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        fits(choice.message.tool_calls[0])


@check("openai", "tools, one by name, and its result")
def named():
    choice = {"type": "function", "function": {"name": "read_heat"}}
    ask = {"model": MODEL, "tools": [HEAT, NOW], "parallel_tool_calls": False, "seed": 1}
    message = client.chat.completions.create(messages=MESSAGES, tool_choice=choice, **ask).choices[0].message
    call = message.tool_calls[0]
    assert call.function.name == "read_heat" and fits(call)
    result = {"role": "tool", "tool_call_id": call.id, "content": "19 degrees"}
    ask["max_tokens"] = 8
    after = client.chat.completions.create(messages=[*MESSAGES, message, result], **ask)
    assert after.choices[0].finish_reason in ("stop", "length", "tool_calls")


@check("openai", "tools, streamed")
def streamed():
    ask = {"model": MODEL, "messages": MESSAGES, "tools": [HEAT], "tool_choice": "required", "seed": 3}
    with client.chat.completions.stream(**ask) as stream:
        events = [event.type for event in stream]
        final = stream.get_final_completion()
    fits(final.choices[0].message.tool_calls[0])
    assert "tool_calls.function.arguments.delta" in events


@check("openai", "tools, the model's choice")
def auto():
    for seed in range(3):
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[HEAT, NOW], seed=seed, max_tokens=24
        )
        choice = answer.choices[0]
        if choice.finish_reason == "tool_calls":
            fits(choice.message.tool_calls[0])
        else:
            assert choice.message.tool_calls is None or choice.finish_reason == "length"


@check("openai", "tools, several calls in an answer")
def parallel():
    for seed in range(3):
        answer = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[HEAT, NOW], tool_choice="required", parallel_tool_calls=True,
            seed=seed, max_tokens=160,
        )
        choice = answer.choices[0]
        calls = choice.message.tool_calls or []
        # The last one may be cut.
        for call in calls if choice.finish_reason == "tool_calls" else calls[:-1]:
            fits(call)
        assert len({call.id for call in calls}) == len(calls)


@check("openai", "tools, cut by max_tokens")
def cut():
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, tools=[HEAT], tool_choice="required", max_tokens=2
    )
    assert answer.choices[0].finish_reason == "length"


@check("openai", "log probabilities of a chat")
def logprobs():
    answer = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=4, logprobs=True, top_logprobs=3, temperature=0
    )
    content = answer.choices[0].logprobs.content
    assert len(content) == 4 and all(len(one.top_logprobs) == 3 for one in content)
    assert all(abs(one.logprob - one.top_logprobs[0].logprob) < 1e-6 for one in content)


@check("openai", "scores of a text, by echo")
def echo():
    text = "The temperature of the hall is"
    answer = client.completions.create(model=MODEL, prompt=text, max_tokens=0, echo=True, logprobs=1)
    scores = answer.choices[0].logprobs
    assert text in "".join(scores.tokens), scores.tokens
    assert scores.token_logprobs[0] is None
    assert all(score < 0 for score in scores.token_logprobs[1:])


@check("openai", "several prompts, several texts")
def several():
    answer = client.completions.create(model=MODEL, prompt=["a", "b"], n=2, max_tokens=3)
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]


@check("openai", "refused: a picture, sound")
def pictures():
    for part in (
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ):
        message = {"role": "user", "content": [part]}
        ask = lambda: client.chat.completions.create(model=MODEL, messages=[message])
        refused(ask, openai.BadRequestError, "messages[0].content")


@check("openai", "refused: custom tools, a schema beside tools")
def tools_refused():
    custom = {"type": "custom", "custom": {"name": "f"}}
    for more, word in (
        ({"tools": [custom]}, "tools[0].type"),
        ({"tools": [HEAT], "response_format": {"type": "json_object"}}, "response_format"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ):
        ask = lambda: client.chat.completions.create(model=MODEL, messages=MESSAGES, **more)
        refused(ask, openai.BadRequestError, word)


@check("openai", "refused: embeddings, responses, images, other models")
def paths():
    for ask in (
        lambda: client.embeddings.create(model=MODEL, input="a"),
        lambda: client.responses.create(model=MODEL, input="a"),
        lambda: client.images.generate(model=MODEL, prompt="a"),
        lambda: client.chat.completions.create(model="gpt-4o", messages=MESSAGES),
    ):
        refused(ask, openai.NotFoundError)


@check("langchain-openai", "invoke, stream, batch")
def langchain():
    from langchain_openai import ChatOpenAI, OpenAI

    chat = ChatOpenAI(model=MODEL, max_tokens=8, temperature=0, max_retries=0, extra_body=ANEW)
    whole = chat.invoke("How warm is it?").content
    assert "".join(part.content for part in chat.stream("How warm is it?")) == whole
    assert len(chat.batch(["a", "b"])) == 2
    assert OpenAI(model=MODEL, max_tokens=4, max_retries=0).invoke("The hall")


class Heat(BaseModel):
    """Reads how warm a room is."""

    room: Annotated[str, Field(max_length=8)]
    hour: Annotated[int, Field(ge=0, le=23)]


@check("langchain-openai", "structured output, by schema and by function")
def structured():
    from langchain_openai import ChatOpenAI

    for method in ("json_schema", "function_calling"):
        chat = ChatOpenAI(model=MODEL, max_retries=0, seed=4)
        assert isinstance(chat.with_structured_output(Heat, method=method).invoke("How warm is the hall?"), Heat)


@check("langchain-openai", "tools, bound, and their results")
def bound():
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    chat = ChatOpenAI(model=MODEL, max_retries=0, seed=5)
    asked = [HumanMessage("How warm is the hall?")]
    answer = chat.bind_tools([HEAT], tool_choice="any").invoke(asked)
    (call,) = answer.tool_calls
    jsonschema.validate(call["args"], PARAMETERS)
    result = ToolMessage("19 degrees", tool_call_id=call["id"])
    chat.bind_tools([HEAT]).bind(max_tokens=8).invoke([*asked, answer, result])


@check("litellm", "completion, stream, text_completion")
def lite():
    import litellm

    to = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "messages": MESSAGES, "max_tokens": 8, "temperature": 0}
    whole = litellm.completion(**to).choices[0].message.content
    parts = litellm.completion(**to, stream=True)
    assert "".join(part.choices[0].delta.content or "" for part in parts) == whole
    text = litellm.text_completion(model=f"text-completion-openai/{MODEL}", api_base=BASE_URL, prompt="The hall", max_tokens=4)
    assert text.choices[0].text


@check("litellm", "tools, JSON schema")
def lite_tools():
    import litellm

    to = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "messages": MESSAGES, "seed": 6}
    answer = litellm.completion(**to, tools=[HEAT], tool_choice="required")
    fits(answer.choices[0].message.tool_calls[0])
    form = {"type": "json_schema", "json_schema": {"name": "heat", "schema": PARAMETERS}}
    answer = litellm.completion(**to, response_format=form)
    jsonschema.validate(json.loads(answer.choices[0].message.content), PARAMETERS)


@check("lm_eval", "scores of choices, local-completions")
def harness():
    """Two questions of its own, so that nothing is fetched; scored by echo."""
    data = PLACE / "questions.jsonl"
    rows = [
        {"text": "The temperature of the", "endings": [" hall", " zzxq"], "label": 0},
        {"text": "Once upon a", "endings": [" time", " qqqq"], "label": 0},
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (PLACE / "hall.yaml").write_text(
        f"""task: hall
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: "{{{{endings}}}}"
doc_to_target: label
target_delimiter: ""
metric_list:
  - metric: acc
"""
    )
    ask = f"model={MODEL},base_url={BASE_URL}/completions,tokenizer={FOLDER},num_concurrent=1,max_retries=1"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", "local-completions", "--model_args", ask]
    command += ["--tasks", "hall", "--include_path", str(PLACE), "--output_path", str(PLACE / "scores")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-600:]
    (scores,) = (PLACE / "scores").rglob("*.json")
    assert json.loads(scores.read_text())["results"]["hall"]["acc,none"] == 1.0


def main():
    failed = 0
    for package, name, function in CHECKS:
        begun, said = time.perf_counter(), "ok"
        try:
            function()
        except Exception as error:
            said, failed = f"FAILED: {type(error).__name__}: {error}", failed + 1
        seconds = time.perf_counter() - begun
        print(f"{package} {importlib.metadata.version(package)} | {name} | {said} | {seconds:.1f} s", flush=True)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
