"""Fifty adapters merged by `fleet-server merge` and by Flower's simulation: seconds of CPU and memory.

An upload has the shape of Llama-3.2-1B, rank 8 on q, k, v and o of all 16 layers: 1.70 million numbers. Ours reads
them from adapter folders and merges products; Flower's clients send the same factors as f32 and its strategies
average those, which is another sum (ARCHITECTURE.md, "The merge of a fleet"): compared is what it takes.
Run: python tools/fleet-server/benches/flower.py target/release/fleet-server    (pip install 'flwr[simulation]==1.42.0' safetensors)
Each measurement is a process of its own, in turn; memory is the peak, of the server's process and of all of them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

RANK, LAYERS = 8, 16
FANS = {"q_proj": (2048, 2048), "k_proj": (2048, 512), "v_proj": (2048, 512), "o_proj": (2048, 2048)}
STRATEGIES = ["FedAvg", "FedMedian", "FedTrimmedAvg", "MultiKrum"]


def shapes() -> dict[str, tuple[int, int]]:
    name = "base_model.model.model.layers.{}.self_attn.{}.lora_{}.weight".format
    found = {}
    for layer in range(LAYERS):
        for module, (fan_in, fan_out) in FANS.items():
            found |= {name(layer, module, "A"): (RANK, fan_in), name(layer, module, "B"): (fan_out, RANK)}
    return found


def tensors(client: int) -> dict[str, np.ndarray]:
    """A part that is common to all, and one of the client's own."""
    common, own = np.random.default_rng(0), np.random.default_rng(client + 1)
    number = lambda shape: np.float32(0.02) * (common.standard_normal(shape, np.float32) + own.standard_normal(shape, np.float32))
    return {name: number(shape) for name, shape in shapes().items()}


def folders(root: Path, clients: int) -> None:
    from safetensors.numpy import save_file

    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK, "target_modules": list(FANS)}
    meta = {"format_version": 1, "base_hash": "07" * 32, "steps": 100, "role": "slow", "retain": 0.99, "created_by": "flower.py"}
    for client in range(clients):
        folder = root / f"{client:04}"
        folder.mkdir()
        save_file(tensors(client), folder / "adapter_model.safetensors", {"format": "pt"})
        (folder / "adapter_config.json").write_text(json.dumps(config))
        (folder / "adapter_meta.json").write_text(json.dumps(meta | {"generation": client + 1}))


def ours(program: str, root: Path, out: Path) -> dict:
    command = [program, "merge", "--out", str(out), "--from", *map(str, sorted(root.iterdir()))]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, status
    memory = used.ru_maxrss / 1000
    cpu = used.ru_utime + used.ru_stime
    return {"name": "fleet-server merge", "cpu_s": cpu, "wall_s": time.perf_counter() - start, "server_mb": memory, "all_mb": memory}


def resident_kb(group: int, own: int) -> tuple[int, int]:
    """Of one process, and of all in its session (PSS: what processes share counts once)."""
    alone = together = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            if os.getsid(int(folder.name)) != group:
                continue
            rollup = (folder / "smaps_rollup").read_text()
        except (OSError, ProcessLookupError):
            continue
        fields = {line.split()[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        together += fields["Pss:"]
        if int(folder.name) == own:
            alone = fields["Rss:"]
    return alone, together


def flower(strategy: str, clients: int) -> dict:
    """One round in this process; aggregation's CPU time is this process's own, on all of its threads."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "FLWR_TELEMETRY_ENABLED": "0"}
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp import strategy as strategies
    from flwr.simulation import run_simulation

    taken = {"name": f"Flower {strategy}", "cpu_s": 0.0, "wall_s": 0.0}
    client_app, server_app = ClientApp(), ServerApp()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        record = ArrayRecord(list(tensors(int(context.node_config["partition-id"])).values()))
        return Message(content=RecordDict({"arrays": record, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    class Measured(getattr(strategies, strategy)):
        def aggregate_train(self, server_round, replies):
            replies, wall, cpu = list(replies), time.perf_counter(), time.process_time()
            assert len(replies) == clients and not any(reply.has_error() for reply in replies)
            arrays, metrics = super().aggregate_train(server_round, replies)
            taken.update(cpu_s=time.process_time() - cpu, wall_s=time.perf_counter() - wall)
            return arrays, metrics

    @server_app.main()
    def main(grid: Grid, context: Context) -> None:
        zeros = ArrayRecord([np.zeros(shape, np.float32) for shape in shapes().values()])
        some = {"fraction_evaluate": 0.0, "min_available_nodes": clients, "min_train_nodes": clients}
        some |= {"num_malicious_nodes": clients // 5, "num_nodes_to_select": clients - clients // 5} if strategy == "MultiKrum" else {}
        Measured(**some).start(grid, zeros, num_rounds=1)

    ended, peaks = threading.Event(), [0, 0]

    def watch() -> None:
        while not ended.wait(0.1):
            peaks[:] = map(max, peaks, resident_kb(os.getsid(0), os.getpid()))

    watcher = threading.Thread(target=watch)
    watcher.start()
    run_simulation(server_app, client_app, clients, backend_config={"client_resources": {"num_cpus": 1}})
    ended.set()
    watcher.join()
    return taken | {"server_mb": peaks[0] * 1.024 / 1000, "all_mb": peaks[1] * 1.024 / 1000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--strategy", choices=STRATEGIES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.strategy:
        print(json.dumps(flower(arguments.strategy, arguments.clients)), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root, out = Path(scratch) / "uploads", Path(scratch) / "merged"
        root.mkdir()
        folders(root, arguments.clients)
        rows = [ours(arguments.program, root, out)]
        for strategy in STRATEGIES:
            command = [sys.executable, __file__, arguments.program, "--clients", str(arguments.clients), "--strategy", strategy]
            # A session of its own: its processes are told by it.
            ran = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
            assert ran.returncode == 0, ran.stderr[-4000:]
            rows.append(json.loads(ran.stdout.strip().splitlines()[-1]))
    print("| | CPU s | wall s | server MB | all MB |\n|---|---|---|---|---|")
    for row in rows:
        print("| {name} | {cpu_s:.2f} | {wall_s:.2f} | {server_mb:.0f} | {all_mb:.0f} |".format(**row))


if __name__ == "__main__":
    main()
