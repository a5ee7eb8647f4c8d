"""Technicians' notes in shorthand: unit / fault / found / action / part.

The cause fits the fault, the action the cause, and the part the action.
"""

PUMP = {
    "dchg press low": [("suction strainer clogged", "clnd strainer, vented csg", "gasket STR-40"), ("impeller worn", "swapped impeller, set clearance", "impeller IM-160"), ("air in suction line", "bled line, retorqued flange", "-")],
    "mech seal leaking": [("seal faces scored", "fitted new seal, flushed plan 11", "seal MS-35"), ("O-ring hard", "renewed O-ring", "O-ring OR-212")],
    "vib high DE brg": [("brg pitted", "renewed brg, regreased", "brg 6309-C3"), ("coupling misaligned", "laser aligned to 0.05 mm", "-"), ("soft foot", "shimmed foot 2, retorqued", "shim set SH-05")],
    "trips on overload": [("gland too tight", "backed off gland 1/2 turn", "-"), ("rag on impeller", "pulled rag, checked volute", "-"), ("phase loss at starter", "renewed contactor tips", "contactor K-32")],
    "won't prime": [("foot valve stuck open", "clnd foot valve", "valve FV-80"), ("check valve flapper missing", "fitted new check valve", "valve CV-50")],
}
GENSET = {
    "cranks, no start": [("fuel filter blocked", "renewed filter, bled rail", "filter FF-12"), ("stop solenoid stuck", "freed and greased solenoid", "solenoid SO-24"), ("batt 9.8 V under load", "renewed batt, clnd lugs", "batt B-100Ah")],
    "high coolant temp": [("rad core dusty", "blew out core", "-"), ("thermostat stuck shut", "renewed t'stat", "t'stat TH-82"), ("belt slipping", "tensioned belt", "belt A-54")],
    "hunting at no load": [("actuator linkage worn", "renewed rod ends", "rod end RE-8"), ("gov gain too high", "gain 60 -> 45", "-")],
    "low oil press alarm": [("sender faulty, gauge ok", "renewed sender", "sender OP-10"), ("oil diluted w/ fuel", "changed oil + filter, injector 3 leaking", "filter OF-7")],
    "undervolt on load": [("AVR drifted", "reset AVR to 400 V", "-"), ("diode open", "renewed diode pack", "diode set RD-6")],
}
CONVEYOR = {
    "belt tracking off to LHS": [("tail pulley built up", "scraped pulley, set tracking", "-"), ("idler seized", "renewed idler", "idler ID-108"), ("splice crooked", "cut and respliced", "splice kit SK-3")],
    "belt slips on start": [("take-up at end of travel", "shortened belt one splice", "splice kit SK-3"), ("lagging worn", "booked pulley relag, washed belt", "lagging LG-8")],
    "drive noisy": [("gearbox oil low", "topped up 2 l, seal weeping", "oil VG220"), ("chain dry", "lubed chain, took out 1 link", "link CL-80")],
    "pull cord tripped, no reset": [("switch water-logged", "renewed switch, sealed gland", "switch PC-2")],
    "spillage at transfer": [("skirt rubber worn", "renewed skirt 4 m", "skirt SK-150"), ("chute blocked w/ fines", "rodded chute", "-")],
}
DRONE = {
    "motor hot after hover": [("brg rough", "renewed motor", "motor M-2806"), ("prop nicked", "renewed prop pair, balanced", "prop P-7040")],
    "drifts in loiter": [("compass near new cable", "rerouted cable, recal", "-"), ("IMU foam torn", "renewed mount, recal level", "mount IM-4")],
    "low voltage failsafe at 40 %": [("cell 3 sags to 3.1 V", "retired pack, logged", "pack 6S-5200"), ("XT60 loose", "resoldered plug", "plug XT60")],
    "video drops at range": [("antenna lead cracked", "renewed lead", "pigtail MM-10"), ("VTX overheats", "added pad and duct", "pad TP-1")],
    "gimbal twitches": [("ribbon pinched", "renewed ribbon", "ribbon GR-6"), ("tilt motor magnet dirty", "clnd w/ tape, recal", "-")],
}
COMPRESSOR = {
    "won't load": [("inlet valve stuck", "clnd and lubed valve", "kit IV-20"), ("solenoid coil open", "renewed coil", "coil SC-24")],
    "oil carry-over": [("separator saturated", "renewed separator + filter", "separator SE-37"), ("scavenge line blocked", "rodded orifice", "-")],
    "high temp trip": [("cooler fins blocked", "washed cooler", "-"), ("oil level low", "topped up to mid glass", "oil RS-46")],
    "water in air lines": [("drain stuck shut", "renewed auto drain", "drain AD-15"), ("dryer fan dead", "renewed fan motor", "motor FM-6")],
}
FAN = {
    "vib 11 mm/s": [("blade dusty", "scraped and balanced in situ", "-"), ("grub screw loose", "retightened, thread lock", "screw M8x12")],
    "belt squeals": [("sheave worn", "renewed sheave + belts", "belt SPA-1250"), ("tension low", "retensioned, checked after 1 h", "-")],
    "no airflow, motor runs": [("damper linkage off", "refitted pin", "pin DL-6"), ("belt broken", "renewed belt set", "belt SPA-1250")],
}
MACHINES = [("P", "pump", PUMP), ("G", "genset", GENSET), ("CV", "conveyor", CONVEYOR), ("UAV", "drone", DRONE), ("K", "compr", COMPRESSOR), ("F", "fan", FAN)]
AREAS = ["bay 2", "north yard", "line 4", "wash plant", "roof", "mill", "silo 3", "workshop", "pit bottom", "dock", "boiler rm", "quarry"]
SEEN = ["rptd by ops", "found on round", "call-out 02:40", "during PM", "after rain", "on start-up", "since yday", "intermittent"]
AFTER = ["ran {m} min, ok", "test run ok, {a} A", "back in svc", "watch next shift", "temp {t} C after {m} min", "handed to ops", "vib now {v} mm/s", "no leaks at {b} bar", "recheck in {m} h"]


def item(chance):
    """One note, one or two lines."""
    c = chance
    letter, name, faults = c.choice(MACHINES)
    fault = c.choice(sorted(faults))
    found, action, part = c.choice(faults[fault])
    unit = f"{letter}-{c.randint(101, 989)}"
    after = c.choice(AFTER).format(m=c.randint(5, 95), a=c.randint(40, 900) / 10, t=c.randint(31, 92), v=c.randint(9, 48) / 10, b=c.randint(15, 140) / 10)
    hours = c.randint(120, 39800)
    lead = c.choice([f"{unit} {name} {c.choice(AREAS)}", f"{name} {unit}, {hours} h", f"{unit} {name} ({c.choice(AREAS)}, {hours} h)"])
    when = f", {c.choice(SEEN)}" if c.random() < 0.6 else ""
    used = f"{part} x{c.randint(1, 2)}" if part != "-" else "none"
    minutes = c.randint(2, 34) * 5
    return f"{lead}: {fault}{when} / found {found} / {action}; {after} / part: {used} / {minutes} min"


def key(line):
    """What must be new in every line: the note without the minutes of labour."""
    return line.rsplit(" / ", 1)[0]
