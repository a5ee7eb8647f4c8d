"""What devices and the fleet server sign and name, by packages that know nothing of ours: cryptography and blake3.

Seeds of keys are 32 bytes: 0 to 31, or one number 32 times. The Rust test reads every case.
Command: python tools/golden/all.py --out tests/golden --only fleet
"""

import json
import struct
from pathlib import Path

import numpy as np
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from safetensors.numpy import load, save

FLEET = bytes(range(16))
BASE = blake3(b"a base").digest()
LABEL = "Werk 3, Öfen"
COHORT = blake3(b"sapwood-cohort-v1\n" + BASE + struct.pack("<HBB", 6, 15, len(LABEL.encode())) + LABEL.encode()).digest()
ARTIFACT = blake3(b"an artifact").digest()


def seed(number: int) -> bytes:
    return bytes(range(32)) if number == 0 else bytes([number] * 32)


def secret(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(seed(number))


def public(number: int) -> bytes:
    return secret(number).public_key().public_bytes_raw()


def device(number: int) -> bytes:
    return blake3(b"sapwood-device-v1\n" + public(number)).digest()[:16]


def request(number: int, fleet: bytes, time: int, method: str, path: str, body: bytes) -> dict:
    digest = blake3(body).digest()
    signed = b"sapwood-request-v1\n" + fleet + device(number) + struct.pack("<Q", time)
    for text in (method, path):
        signed += struct.pack("<H", len(text.encode())) + text.encode()
    signed += struct.pack("<Q", len(body)) + digest
    return {
        "seed": seed(number).hex(),
        "fleet": fleet.hex(),
        "method": method,
        "path": path,
        "body": body.hex(),
        "signed_bytes": len(signed),
        "headers": [device(number).hex(), str(time), digest.hex(), secret(number).sign(signed).hex()],
    }


def signatures(signed: bytes, signers: list[int]) -> str:
    parts = [blake3(public(number)).digest()[:8] + secret(number).sign(signed) for number in signers]
    return (bytes([len(parts)]) + b"".join(parts)).hex()


def statement(role: int, sequence: int, issued: int, expires: int, size: int, signers: list[int]) -> dict:
    signed = b"sapwood-release\n" + struct.pack("<HBBI", 1, role, 0, 0) + FLEET + COHORT
    signed += struct.pack("<QQQQ", sequence, issued, expires, size) + ARTIFACT
    return {
        "role": role,
        "sequence": sequence,
        "issued": issued,
        "expires": expires,
        "artifact_bytes": size,
        "statement": signed.hex(),
        "signatures": signatures(signed, signers),
    }


def trust(epoch: int, expires: int, online: int, roots: list[int], root: int, releases: list[int], release: int, signers: list[int]) -> dict:
    signed = b"sapwood-trust--\n" + struct.pack("<HBBBBH", 1, root, release, len(roots), len(releases), 0)
    signed += FLEET + struct.pack("<QQ", epoch, expires) + b"".join(public(number) for number in [online, *roots, *releases])
    return {
        "epoch": epoch,
        "expires": expires,
        "thresholds": [root, release],
        "online": public(online).hex(),
        "root": [public(number).hex() for number in roots],
        "release": [public(number).hex() for number in releases],
        "statement": signed.hex(),
        "hash": blake3(signed).hexdigest(),
        "signatures": signatures(signed, signers),
    }


def bucket(number: int, device: bytes) -> int:
    digest = blake3(b"sapwood-bucket-v1\n" + struct.pack("<Q", number) + device).digest()
    return int.from_bytes(digest[:4], "little") % 10000


def update() -> bytes:
    """q and v of layer 6 at rank 2: A of q [2, 4], B of q [4, 2], A of v [2, 4], B of v [3, 2] in f32."""
    name = "base_model.model.model.layers.6.self_attn.{}_proj.lora_{}.weight".format
    ramp = lambda *shape: np.arange(np.prod(shape), dtype=np.float16).reshape(shape) / np.float16(8)
    tensors = {
        name("q", "A"): ramp(2, 4),
        name("q", "B"): ramp(4, 2),
        name("v", "A"): ramp(2, 4),
        name("v", "B"): ramp(3, 2).astype(np.float32),
    }
    metadata = {
        "format": "sapwood-update/1",
        "base": BASE.hex(),
        "cohort": COHORT.hex(),
        "from": ARTIFACT.hex(),
        "generation": "12",
        "steps": "340",
        "tokens": "87040",
    }
    file = canonical(save(tensors, metadata))
    assert {name: tensor.tolist() for name, tensor in load(file).items()} == {name: tensor.tolist() for name, tensor in tensors.items()}
    return file


def canonical(file: bytes) -> bytes:
    """The file with its metadata sorted: the package writes it in an order of chance."""
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[end:]


def wire() -> bytes:
    """q and v of layers 6 and 7 at rank 3: f16, the scale in B, each row of A and column of B of like length."""
    fans, rank, scale, at, tensors = {"q": (5, 6), "v": (5, 3)}, 3, np.float32(2.5), 0, {}
    for layer in (6, 7):
        for module, (fan_in, fan_out) in fans.items():
            sizes = rank * fan_in, fan_out * rank
            numbers = [((at + i) * 37 % 101 - 50) / 64 for i in range(sum(sizes))]
            at += sum(sizes)
            a = np.array(numbers[: sizes[0]], dtype=np.float32).reshape(rank, fan_in)
            b = np.array(numbers[sizes[0] :], dtype=np.float32).reshape(fan_out, rank) * np.float32(0.001)
            if not tensors:
                b[:, 1] = 0
            b = scale * b
            for i in range(rank):
                long, wide = (a[i].astype(float) ** 2).sum(), (b[:, i].astype(float) ** 2).sum()
                # frexp's fraction is at least a half, so its exponent is one more.
                root = lambda square: (int(np.frexp(square)[1]) - 1) // 2
                power = (root(wide / long) + 1) // 2 if wide > 0 else -root(long)
                a[i] *= np.float32(2.0) ** power
                b[:, i] *= np.float32(2.0) ** -power
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}_proj.lora_{{}}.weight".format
            tensors |= {name("A"): a.astype(np.float16), name("B"): b.astype(np.float16)}
    metadata = {
        "format": "sapwood-update/1",
        "base": (b"\1" * 32).hex(),
        "cohort": (b"\2" * 32).hex(),
        "from": (b"\3" * 32).hex(),
        "generation": "12",
        "steps": "340",
        "tokens": "87040",
    }
    return canonical(save(tensors, metadata))


def cases() -> dict:
    fleet, time = FLEET, 1764100000000
    replacement = b"sapwood-key-v1\n" + FLEET + device(0) + public(9)
    return {
        "names": {
            "base": BASE.hex(),
            "artifact": ARTIFACT.hex(),
            "label": LABEL,
            "first_layer": 6,
            "targets": 15,
            "cohort": COHORT.hex(),
            "keys": [
                [seed(number).hex(), public(number).hex(), device(number).hex(), blake3(public(number)).digest()[:8].hex()]
                for number in (0, 1, 9, 255)
            ],
            "replacement": [seed(9).hex(), secret(9).sign(replacement).hex()],
        },
        "requests": [
            request(0, fleet, time, "POST", "/v1/checkin", b'{"k":1}'),
            request(1, fleet, 0, "GET", f"/v1/artifacts/{ARTIFACT.hex()}", b""),
            request(9, bytes([255] * 16), 2**53 - 1, "PUT", "/v1/rounds/7/upload", update()),
            request(255, fleet, time + 299_999, "GET", "/v1/trust?after=3&x=%C3%96", b""),
        ],
        "trust": [
            trust(1, 1_800_000_000, 20, [1, 2, 3], 2, [11, 12, 13], 2, [1, 3]),
            trust(2, 1_900_000_000, 21, [2, 3, 4], 2, [12, 13, 14], 2, [3, 2]),
            trust(9, 2_000_000_000, 21, [5], 1, [14], 1, [5, 2, 4, 8]),
        ],
        "statements": [
            statement(2, 7, 1_764_000_000, 1_770_000_000, 6_800_000, [11, 13]),
            statement(1, 8, 1_764_000_000, 1_764_600_000, 1, [20]),
            statement(2, 2**53 - 1, 0, 2**53 - 1, 64 << 20, [11, 12, 13]),
        ],
        "buckets": [[number, device(key).hex(), bucket(number, device(key))] for number in (1, 7, 2**53 - 1) for key in (0, 1, 9)],
    }


def write(out: Path) -> None:
    folder = out / "fleet"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "fleet.json").write_text(json.dumps(cases(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    (folder / "update.safetensors").write_bytes(update())
    (folder / "wire.safetensors").write_bytes(wire())
