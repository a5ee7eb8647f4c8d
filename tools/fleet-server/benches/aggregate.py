"""The merge of `aggregate.rs` in numpy, on one thread: norms, two passes, the energy outside; seconds.

Run: OPENBLAS_NUM_THREADS=1 python tools/fleet-server/benches/aggregate.py 2000    (numpy 2.4.6)
Uploads are made of a seed and decoded from f16, as there; making them is not counted. Products are f32, sums f64.
"""

import resource
import sys
import time

import numpy as np

RANK, GLOBAL_RANK, SPARE = 8, 16, 16
SHAPES = [(2048, out) for _ in range(16) for out in (2048, 512, 512, 2048)]
SIZE = sum(RANK * (fan_in + out) for fan_in, out in SHAPES)
clock = {"making": 0.0, "decoding": 0.0}


def read(at: int, common: np.ndarray):
    start = time.perf_counter()
    own = np.random.default_rng(at).random(SIZE, dtype=np.float32)
    wire = (0.02 * (2 * own - 1 + common)).astype(np.float16)
    made = time.perf_counter()
    numbers = wire.astype(np.float32)
    clock["making"] += made - start
    clock["decoding"] += time.perf_counter() - made
    place = 0
    for fan_in, out in SHAPES:
        a = numbers[place : place + RANK * fan_in].reshape(RANK, fan_in)
        place += RANK * fan_in
        b = numbers[place : place + RANK * out].reshape(out, RANK)
        place += RANK * out
        yield a, b


def main() -> None:
    count = int(sys.argv[1])
    chance = np.random.default_rng(7)
    common = (2 * chance.random(SIZE) - 1).astype(np.float32)
    noise = lambda *shape: (0.02 * (2 * chance.random(shape) - 1)).astype(np.float32)
    held = [(noise(GLOBAL_RANK, fan_in), noise(out, GLOBAL_RANK)) for fan_in, out in SHAPES]
    omega, other = (chance.standard_normal((2048, SPARE)).astype(np.float32) for _ in range(2))

    start = time.perf_counter()
    norms = [np.sqrt(sum(np.sum((a @ a.T) * (b.T @ b), dtype=np.float64) for a, b in read(at, common))) for at in range(count)]
    factors = np.minimum(1, np.median(norms) / norms) / count
    probes = [np.hstack([a.T, omega]) for a, _ in held]
    images = [(b @ (a @ t)).astype(np.float64) for (a, b), t in zip(held, probes)]
    for at in range(count):
        for (a, b), t, image in zip(read(at, common), probes, images):
            image += b @ (factors[at].astype(np.float32) * (a @ t))
    ranges = [np.linalg.qr(image)[0].astype(np.float32) for image in images]
    within = [((q.T @ b) @ a).astype(np.float64) for (a, b), q in zip(held, ranges)]
    outside = [(b @ (a @ other)).astype(np.float64) for a, b in held]
    for at in range(count):
        factor = factors[at].astype(np.float32)
        for (a, b), q, z, image in zip(read(at, common), ranges, within, outside):
            z += (factor * (q.T @ b)) @ a
            image += b @ (factor * (a @ other))
    dropped = energy = 0.0
    for q, z, image in zip(ranges, within, outside):
        values = np.linalg.svd(z, full_matrices=False)[1]
        rest = np.sum((image - q @ (q.T @ image)) ** 2) / SPARE
        dropped += np.sum(values[GLOBAL_RANK:] ** 2) + rest
        energy += np.sum(values**2) + rest
    spent = time.perf_counter() - start - clock["making"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"| {count} | {spent:.1f} | of it decoding {clock['decoding']:.1f} | {1e3 * spent / count:.1f} ms an upload | peak {peak:.0f} MB |")
    print(f"dropped {dropped / energy:.4f}")


main()
