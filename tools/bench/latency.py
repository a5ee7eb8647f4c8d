"""Time from token to token of a served text, alone and while a job learns.

Starts `firmware-host run` on a model, streams completions one after the other, then sends samples
so that a job begins, and streams again for as long as it learns. Percentiles of the time between
two pieces of the stream, and of the time to the first. Standard library only.

    cargo build --release --bins
    python3 tools/bench/latency.py --program target/release/firmware-host --model models/base
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import tempfile
import time

CONFIG = """
model = "{model}"
state = "{state}"
[serve]
listen = "127.0.0.1:0"
[job]
samples-min = 32
epochs = 1000
iters-max = {iters}
[learn]
num-layers = {layers}
save-every = 0
steps-per-eval = 0
"""


def request(port, method, path, body=None):
    """A connection on which the answer has begun."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    connection.request(method, path, body, {"content-type": "application/json"})
    return connection, connection.getresponse()


def status(port):
    _, answer = request(port, "GET", "/v1/status")
    return json.loads(answer.read())


def stream(port, prompt, tokens):
    """Milliseconds to the first piece and between pieces, and tokens that were written."""
    body = json.dumps({"prompt": prompt, "max_tokens": tokens, "temperature": 0.8, "stream": True,
                       "stream_options": {"include_usage": True}})
    begun = time.perf_counter()
    connection, answer = request(port, "POST", "/v1/completions", body)
    moments, written = [begun], 0
    for line in answer:
        if line.startswith(b"data: {"):
            usage = json.loads(line[6:]).get("usage")
            written = usage["completion_tokens"] if usage else written
            moments.append(time.perf_counter())
    connection.close()
    steps = [1e3 * (after - before) for before, after in zip(moments, moments[1:])]
    return steps[0], steps[1:], written


def percentile(numbers, part):
    ordered = sorted(numbers)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def measure(port, texts, tokens, until=None):
    first, between, written = [], [], 0
    for number in range(texts):
        if until and not until():
            break
        to_first, steps, of_text = stream(port, f"Pump {number} reports", tokens)
        first.append(to_first)
        between.extend(steps)
        written += of_text
    return first, between, written


def row(name, first, between, written):
    p = percentile
    rate = 1e3 * written / (sum(first) + sum(between))
    print(f"| {name} | {len(first)} | {p(first, .5):.1f} | {p(first, .99):.1f} "
          f"| {p(between, .5):.2f} | {p(between, .99):.2f} | {rate:.0f} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--program", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--texts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--iters", type=int, default=400)
    parser.add_argument("--num-layers", type=int, default=4)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = os.path.join(folder, "host.toml")
        state = os.path.join(folder, "state")
        with open(config, "w") as file:
            file.write(CONFIG.format(model=os.path.abspath(args.model), state=state, iters=args.iters,
                                     layers=args.num_layers))
        program = subprocess.Popen(
            [args.program, "run", "-c", config, "--log-format", "json"], stderr=subprocess.PIPE, text=True)
        try:
            port = None
            for line in program.stderr:
                event = json.loads(line)
                if event.get("message") == "serving":
                    port = int(event["listen"].rsplit(":", 1)[1])
                    break
            measure(port, 3, args.tokens)
            alone = measure(port, args.texts, args.tokens)
            text = "The pump on line {0} turned at {1} rpm for {2} minutes, then its bearing ran warm. " * 12
            lines = [json.dumps({"text": text.format(i, 900 + 7 * i, i % 60)}) for i in range(64)]
            request(port, "POST", "/v1/samples", "\n".join(lines))[1].read()
            while status(port)["phase"] != "learning" or not status(port)["steps"]:
                time.sleep(0.2)
            before = status(port)["steps_made"]
            begun = time.perf_counter()
            learning = measure(port, args.texts, args.tokens, lambda: status(port)["phase"] == "learning")
            busy = time.perf_counter() - begun
            served = status(port)["steps_made"] - before
            begun, before = time.perf_counter(), status(port)["steps_made"]
            time.sleep(min(20.0, busy))
            idle = time.perf_counter() - begun
            alone_steps = status(port)["steps_made"] - before
        finally:
            program.send_signal(signal.SIGTERM)
            program.wait(60)
    print("| | texts | first ms p50 | p99 | piece ms p50 | p99 | tokens/s |\n|---|---|---|---|---|---|---|")
    row("no job", *alone)
    row("while a job learns", *learning)
    print(f"\noptimiser steps a second: {alone_steps / idle:.2f} alone, {served / busy:.2f} while texts are served")


if __name__ == "__main__":
    main()
