"""Logs of small Linux boards with cameras, motors, batteries and an on-device learner.

An item is one incident: a few lines of one device in which the numbers hang together (a temperature
rises, the clock is lowered, it falls again), so that there is something to learn beyond the words.
"""

LEVELS = {"d": "DEBUG", "i": "INFO", "w": "WARN", "e": "ERROR"}
MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
BOARDS = ["orin", "nano", "xavier", "edge", "rover", "kiosk", "gate", "arm"]
SSIDS = ["plant-2g", "plant-5g", "yard", "dock-east", "lab", "guest-iot"]
SENSORS = ["imu0", "baro0", "tof1", "lidar0", "mag0", "gas2", "flow1", "hum0"]
JOINTS = ["base", "shoulder", "elbow", "wrist", "gripper", "left_wheel", "right_wheel"]


class Clock:
    """A device's time of day, as syslog writes it; each line is a little later than the last."""

    def __init__(self, chance):
        self.chance = chance
        self.day = f"{chance.choice(MONTHS)} {chance.randint(1, 28):2}"
        self.ms = chance.randrange(24 * 3600 * 1000 - 3_600_000)
        self.board = f"{chance.choice(BOARDS)}-{chance.randint(1, 48):02}"

    def line(self, level, unit, text, gap_ms=4000):
        self.ms += self.chance.randint(gap_ms // 20, gap_ms)
        seconds = self.ms // 1000
        time = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
        return f"{self.day} {time} {self.board} {LEVELS[level]:<5} {unit}: {text}"


def thermal(c, at):
    zone, hot = c.choice(["gpu", "cpu", "soc", "board"]), c.randint(780, 930) / 10
    high, low = c.choice([(1300, 918), (1224, 816), (1109, 675), (918, 510)])
    return [
        at.line("i", "thermal", f"zone {zone} {hot - c.randint(30, 70) / 10:.1f} C rising, fan {c.randint(40, 80)} %"),
        at.line("w", "thermal", f"zone {zone} {hot:.1f} C over passive trip, clock {high} -> {low} MHz"),
        at.line("i", "governor", f"learning paused: {zone} {hot:.1f} C, resume below {hot - 12:.1f} C"),
        at.line("i", "thermal", f"zone {zone} {hot - c.randint(125, 190) / 10:.1f} C, clock {low} -> {high} MHz", 90000),
    ]


def learner(c, at):
    job, steps, loss = c.randint(10, 999), c.choice([20, 40, 60, 100]), c.randint(180, 420) / 100
    end = loss - c.randint(20, 70) / 100
    kept = c.random() < 0.75
    verdict = "kept" if kept else f"dropped: old text worse by {c.randint(21, 80) / 1000:.3f} bits per byte"
    return [
        at.line("i", "learner", f"job {job} started: {steps} steps, {c.randint(16, 200)} fresh blocks, {c.randint(50, 500)} in reservoir"),
        at.line("i", "learner", f"job {job} step {steps // 2}/{steps} loss {(loss + end) / 2:.3f} ({c.randint(300, 2400)} tokens/s)", 60000),
        at.line("i", "learner", f"job {job} step {steps}/{steps} loss {end:.3f}", 60000),
        at.line("i" if kept else "w", "gate", f"job {job} generation {job + c.randint(3, 40)} {verdict}"),
    ]


def battery(c, at):
    charge, volts, amps = c.randint(12, 38), c.randint(2110, 2290) / 100, c.randint(18, 95) / 10
    return [
        at.line("i", "power", f"battery {charge} % {volts:.2f} V {amps:.1f} A discharging, {charge * 60 // int(amps * 10)} min left"),
        at.line("w", "power", f"battery {charge - 3} % below reserve {charge - 2} %, learning not allowed", 200000),
        at.line("i", "dock", f"contact on bay {c.randint(1, 12)}, charge current {c.randint(20, 60) / 10:.1f} A", 200000),
        at.line("i", "power", f"battery {charge - 3} % charging, {volts + 0.9:.2f} V"),
    ]


def camera(c, at):
    port, frame, fps = c.randint(0, 5), c.randint(1000, 99999), c.choice([15, 30, 60])
    size = c.choice(["640x480", "1280x720", "1920x1080"])
    return [
        at.line("e", f"csi{port}", f"frame {frame} timed out after {c.randint(200, 2500)} ms, {c.randint(2, 9)} buffers queued"),
        at.line("w", f"csi{port}", f"link reset, lane skew {c.randint(1, 31)}, retry 1 of 3"),
        at.line("i", f"csi{port}", f"streaming {size} at {fps} fps, first frame {frame + c.randint(5, 90)}"),
    ]


def wifi(c, at):
    name, signal, address = c.choice(SSIDS), c.randint(58, 88), f"10.{c.randint(0, 60)}.{c.randint(0, 255)}.{c.randint(2, 254)}"
    mac = ":".join(f"{c.randrange(256):02x}" for _ in range(6))
    return [
        at.line("w", "wlan0", f"signal -{signal} dBm on {name}, {c.randint(3, 40)} % of packets lost"),
        at.line("i", "wlan0", f"roaming from {mac}: {c.choice(['beacon lost', 'weak signal', 'deauthenticated, reason 4'])}"),
        at.line("i", "wlan0", f"associated with {name} at -{signal - c.randint(6, 20)} dBm, address {address}/24 in {c.randint(80, 900)} ms"),
        at.line("i", "sync", f"connection to fleet restored, {c.randint(1, 60)} messages waiting, {c.randint(2, 900)} KiB"),
    ]


def storage(c, at):
    part, used = c.choice(["mmcblk0p1", "nvme0n1p2", "mmcblk1p3"]), c.randint(88, 98)
    freed = c.randint(40, 900)
    return [
        at.line("w", "storage", f"/{c.choice(['data', 'var', 'state'])} on {part} {used} % full, {c.randint(90, 800)} MiB left"),
        at.line("i", "storage", f"rotated {c.randint(2, 14)} log segments, freed {freed} MiB in {c.randint(30, 400)} ms"),
        at.line("i", "storage", f"{part} life used {c.randint(1, 60)} %, {c.randint(3, 950)} GiB written, {c.randint(0, 4)} bad blocks"),
    ]


def can_bus(c, at):
    bus, node, code = c.randint(0, 1), c.randint(1, 63), c.randrange(0x100, 0x7FF)
    return [
        at.line("w", f"can{bus}", f"error-passive: tx {c.randint(128, 200)} rx {c.randint(0, 96)}, bus load {c.randint(30, 92)} %"),
        at.line("e", f"can{bus}", f"node {node} silent for {c.randint(300, 3000)} ms, last frame 0x{code:03x} [8] {c.randbytes(4).hex(' ')}"),
        at.line("i", f"can{bus}", f"node {node} heartbeat back, state {c.choice(['operational', 'pre-operational'])}, uptime {c.randint(1, 90)} s"),
    ]


def motor(c, at):
    joint, amps, limit = c.choice(JOINTS), c.randint(62, 140) / 10, c.choice([5, 6, 8, 10])
    amps = max(amps, limit + 0.4)
    return [
        at.line("w", f"drive/{joint}", f"current {amps:.1f} A over limit {limit}.0 A for {c.randint(40, 400)} ms at {c.randint(20, 1900)} rpm"),
        at.line("e", f"drive/{joint}", f"fault {c.choice(['overcurrent', 'stall', 'following error', 'encoder index lost'])}, torque off, position {c.randint(-3100, 3100) / 1000:.3f} rad"),
        at.line("i", "safety", f"{joint} stopped in {c.randint(8, 120)} ms, brake {c.choice(['engaged', 'held'])}"),
        at.line("i", f"drive/{joint}", f"fault cleared by operator after {c.randint(20, 600)} s, homing offset {c.randint(-90, 90)} counts", 200000),
    ]


def sensor(c, at):
    name, bus, address = c.choice(SENSORS), c.randint(0, 8), c.randrange(0x10, 0x78)
    return [
        at.line("e", f"i2c-{bus}", f"no answer from 0x{address:02x} ({name}), errno -{c.choice([5, 110, 121])}, attempt {c.randint(1, 3)}"),
        at.line("w", name, f"stale for {c.randint(2, 30)} samples, last value {c.randint(-4000, 9999) / 100:.2f}"),
        at.line("i", f"i2c-{bus}", f"bus recovered with {c.randint(1, 9)} clocks, {name} id 0x{c.randrange(256):02x} ok"),
        at.line("i", name, f"calibrated: bias {c.randint(-300, 300) / 1000:.3f}, noise {c.randint(1, 80) / 1000:.3f}, {c.choice([50, 100, 200, 400])} Hz"),
    ]


def update(c, at):
    version = f"{c.randint(1, 4)}.{c.randint(0, 20)}.{c.randint(0, 9)}"
    slot = c.choice("AB")
    good = c.random() < 0.7
    end = "confirmed" if good else f"health check failed ({c.choice(['no camera', 'no network', 'watchdog'])}), going back to slot {'AB'[slot == 'A']}"
    return [
        at.line("i", "ota", f"image {version} {c.randint(90, 700)} MiB, signature ok, digest {c.randbytes(4).hex()}"),
        at.line("i", "ota", f"written to slot {slot} in {c.randint(20, 300)} s, {c.randint(0, 3)} retries, rebooting", 100000),
        at.line("i", "boot", f"slot {slot} version {version} on trial, boot {c.randint(1, 3)} of 3, up in {c.randint(9, 40)}.{c.randint(0, 9)} s", 60000),
        at.line("i" if good else "e", "ota", f"version {version} {end}", 60000),
    ]


def watchdog(c, at):
    task, pid = c.choice(["vision", "planner", "audio", "learner", "telemetry", "gateway"]), c.randint(300, 32000)
    return [
        at.line("w", "watchdog", f"{task}[{pid}] missed {c.randint(1, 3)} beats, last seen {c.randint(1000, 9000)} ms ago"),
        at.line("e", "watchdog", f"{task}[{pid}] restarted: {c.choice(['no heartbeat', 'out of memory', 'signal 11', 'exit status 1'])}, rss {c.randint(60, 3900)} MiB"),
        at.line("i", task, f"started as pid {pid + c.randint(3, 400)}, config {c.randbytes(3).hex()}, ready in {c.randint(90, 4000)} ms"),
    ]


def gnss(c, at):
    fix = c.randint(4, 9)
    return [
        at.line("w", "gnss", f"fix lost, {c.randint(0, 3)} of {c.randint(6, 14)} satellites used, jamming {c.randint(20, 240)}"),
        at.line("i", "odometry", f"dead reckoning for {c.randint(3, 90)} s, drift {c.randint(2, 250) / 100:.2f} m"),
        at.line("i", "gnss", f"3d fix, {fix} satellites, hdop {c.randint(7, 30) / 10:.1f}, offset {c.randint(-300, 300)} us to system clock", 40000),
    ]


INCIDENTS = [thermal, learner, battery, camera, wifi, storage, can_bus, motor, sensor, update, watchdog, gnss]


def item(chance):
    """One incident as text."""
    return "\n".join(chance.choice(INCIDENTS)(chance, Clock(chance)))


def key(line):
    """What must be new in every line: all but its day, time and board."""
    return line[7:].split(" ", 2)[-1]
