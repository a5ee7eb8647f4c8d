"""Time to the first token of a second turn with and without what is kept of the first, and tokens a second
with and without a form that the answer has to fit.

Starts `firmware-host serve` on a model and an adapter. A round is one conversation that no other round
begins like: its first turn is answered, then its second turn is read twice, once with `cache_prompt` and
once without, the order changing from round to round; then an answer is drawn without a form, as any JSON
object, and after a schema. Medians and the lowest and highest of all rounds. Standard library only.

    cargo build --release --bins
    python3 tools/bench/turns.py --program target/release/firmware-host --model smol --adapter state
"""

import argparse
import http.client
import json
import os
import signal
import statistics
import subprocess
import tempfile
import time

CONFIG = "[serve]\ntokens-max = 2048\n"
SCHEMA = {"type": "object", "required": ["rooms"], "additionalProperties": False, "properties": {
    "rooms": {"type": "array", "minItems": 12, "maxItems": 40, "items": {
        "type": "object", "required": ["name", "celsius"], "additionalProperties": False,
        "properties": {"name": {"enum": ["kitchen", "hall", "cellar", "attic"]},
                       "celsius": {"type": "integer", "minimum": -20, "maximum": 40}}}}}}
FORMS = {"none": None, "json_object": {"type": "json_object"},
         "json_schema": {"type": "json_schema", "json_schema": {"name": "rooms", "schema": SCHEMA}}}
NOTES = ["The pump of line {n} was looked at after {m} hours; the seal on the pressure side was dry.",
         "Valve {n} closes in {m} seconds, which is within what the maker says of it.",
         "The filter before tank {n} was cleaned, and its pressure fell by {m} millibars.",
         "Motor {n} drew {m} amperes at full load and was warm, not hot."]


def stream(address, **body):
    """Seconds to the first token and from it to the last, tokens written, tokens known before, the text."""
    body.update(stream=True, stream_options={"include_usage": True})
    connection = http.client.HTTPConnection(address, timeout=600)
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    answer = connection.getresponse()
    if answer.status != 200:
        raise SystemExit(answer.read().decode())
    moments, text, usage = [], "", {}
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        event = json.loads(line[6:])
        usage = event.get("usage") or usage
        piece = "".join(choice["delta"].get("content") or "" for choice in event["choices"])
        if piece:
            moments.append(time.perf_counter())
            text += piece
    connection.close()
    known = usage["prompt_tokens_details"]["cached_tokens"]
    if not moments:
        return None
    return (moments[0] - begun, moments[-1] - moments[0], usage["completion_tokens"], known,
            usage["prompt_tokens"], text)


def talk(number, lines):
    """A conversation that begins like no other."""
    notes = [NOTES[at % 4].format(n=number * 100 + at, m=7 * at + number) for at in range(lines)]
    return [{"role": "user", "content": "\n".join(notes) + "\nWhat should be looked at next?"}]


def turns(address, number, args):
    """The second turn of a conversation: known tokens and seconds to the first, kept and not."""
    said = talk(number, args.lines)
    first = stream(address, messages=said, temperature=0.8, seed=number, max_tokens=args.tokens)
    said += [{"role": "assistant", "content": first[5]},
             {"role": "user", "content": "Why? Answer in one sentence."}]
    found = {}
    for kept in [True, False] if number % 2 else [False, True]:
        seconds, _, _, known, prompt, _ = stream(
            address, messages=said, temperature=0.8, seed=number, max_tokens=4, cache_prompt=kept)
        found[kept] = {"seconds": seconds, "known": known, "prompt": prompt}
    return found


def rates(address, number, args):
    """Tokens a second of each form, of an answer that is long enough to tell."""
    found = {}
    order = list(FORMS)[number % 3:] + list(FORMS)[:number % 3]
    ask = [{"role": "user", "content": "List the rooms of a house with their temperature as JSON."}]
    for form in order:
        for seed in range(number * 100, number * 100 + 20):
            body = {"messages": ask, "temperature": 0.8, "seed": seed, "max_tokens": args.tokens}
            if FORMS[form]:
                body["response_format"] = FORMS[form]
            answer = stream(address, **body)
            if answer and answer[2] >= args.tokens // 2:
                found[form] = (answer[2] - 1) / answer[1]
                break
    return found


def told(values, scale=1.0):
    values = [value * scale for value in values]
    return f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--adapter", help="a folder of PEFT or mlx-lm, or a state folder")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--lines", type=int, default=24, help="lines of the first turn, about 25 tokens each")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of an answer")
    args = parser.parse_args()
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as config:
        config.write(CONFIG)
        config.flush()
        command = [args.program, "serve", "--json", "-c", config.name, "--port", "0", "--log-level", "warn",
                   "--model", os.path.abspath(args.model)]
        command += ["--adapter-path", f"slow={os.path.abspath(args.adapter)}"] if args.adapter else []
        program = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            address = json.loads(program.stdout.readline())["listen"]
            stream(address, messages=talk(9_999, 1), max_tokens=4)
            rates(address, 0, args)
            all_turns = [turns(address, number, args) for number in range(1, args.rounds + 1)]
            all_rates = [rates(address, number, args) for number in range(1, args.rounds + 1)]
        finally:
            program.send_signal(signal.SIGINT)
            program.wait()
    for kept in (False, True):
        rows = [one[kept] for one in all_turns]
        prompt = statistics.median(row["prompt"] for row in rows)
        known = statistics.median(row["known"] for row in rows)
        print(f"second turn, cache_prompt {str(kept).lower()}: {told([r['seconds'] for r in rows], 1e3)} ms "
              f"to the first token; {known:.0f} of {prompt:.0f} tokens known; {len(rows)} rounds")
    for form in FORMS:
        values = [one[form] for one in all_rates if form in one]
        print(f"form {form}: {told(values)} tokens a second; {len(values)} answers")


if __name__ == "__main__":
    main()
