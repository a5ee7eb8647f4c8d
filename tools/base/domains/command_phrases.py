"""Spoken commands to a home or a small robot, and their meaning in one line of `intent slot=value`."""

ROOMS = ["kitchen", "bedroom", "living room", "hallway", "bathroom", "garage", "office", "cellar", "attic", "porch", "nursery", "workshop"]
THINGS = ["red box", "blue bin", "tool bag", "water bottle", "green cup", "parcel", "torch", "charger", "first aid kit", "clipboard"]
PLACES = ["dock", "front door", "bench", "shelf two", "loading bay", "table", "window", "charging station", "gate", "sink"]
SONGS = ["slow jazz", "morning piano", "rain sounds", "the news", "folk songs", "drum loops", "a lullaby", "cello suites", "old radio plays", "sea shanties"]
TASKS = ["water the plants", "call the plumber", "feed the cat", "take out the bins", "check the oven", "lock the shed", "charge the drill", "post the letter", "defrost the soup", "change the filter"]
GOODS = ["milk", "batteries", "rice", "light bulbs", "dish soap", "apples", "coffee", "screws", "bread", "bin bags", "oats", "tape"]
COLOURS = ["red", "green", "blue", "warm white", "amber", "violet", "cold white"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
BEFORE = ["", "", "", "", "please ", "hey, ", "could you ", "now ", "ok, ", "can you ", "i want you to ", "quickly ", "robot, ", "house, "]
AFTER = ["", "", "", "", " please", " now", " for me", " if you can", " right away", " thanks", " when you are ready"]


def words(number):
    """1..99 as spoken."""
    if number < 20:
        return NUMBERS[number - 1]
    ten, one = divmod(number, 10)
    return TENS[ten - 2] + (f" {NUMBERS[one - 1]}" if one else "")


def slug(text):
    return text.removeprefix("the ").removeprefix("a ").replace(" ", "_")


def light(c):
    room, level, colour = c.choice(ROOMS), c.randint(1, 19) * 5, c.choice(COLOURS)
    which = c.choice([f"the {room} light", f"the lights in the {room}", f"the {room} lamp", f"{room} lights"])
    return c.choice([
        (c.choice([f"turn on {which}", f"switch {which} on", f"light up the {room}"]), f"light.on room={slug(room)}"),
        (c.choice([f"turn off {which}", f"switch {which} off", f"make the {room} dark"]), f"light.off room={slug(room)}"),
        (c.choice([f"dim {which} to {words(level)} percent", f"set {which} to {words(level)} percent", f"{which} at {words(level)} percent"]), f"light.dim room={slug(room)} level={level}"),
        (c.choice([f"make {which} {colour}", f"change {which} to {colour}"]), f"light.colour room={slug(room)} colour={slug(colour)}"),
    ])


def climate(c):
    room, degrees, step = c.choice(ROOMS), c.randint(14, 27), c.randint(1, 4)
    return c.choice([
        (c.choice([f"set the {room} to {words(degrees)} degrees", f"heat the {room} to {words(degrees)}", f"{words(degrees)} degrees in the {room}"]), f"climate.set room={slug(room)} degrees={degrees}"),
        (c.choice([f"make the {room} {words(step)} degrees warmer", f"raise the {room} by {words(step)} degrees", f"i am cold in the {room}, {words(step)} degrees more"]), f"climate.change room={slug(room)} by={step}"),
        (c.choice([f"make the {room} {words(step)} degrees cooler", f"lower the {room} by {words(step)} degrees"]), f"climate.change room={slug(room)} by=-{step}"),
        (c.choice([f"how warm is the {room}", f"what is the temperature in the {room}"]), f"climate.ask room={slug(room)}"),
    ])


def timer(c):
    minutes, hour, half, task = c.randint(1, 59), c.randint(1, 12), c.choice([0, 15, 30, 45]), c.choice(TASKS)
    clock = words(hour) + (f" {words(half)}" if half else " o'clock")
    return c.choice([
        (c.choice([f"set a timer for {words(minutes)} minutes", f"count down {words(minutes)} minutes", f"tell me when {words(minutes)} minutes have passed"]), f"timer.set minutes={minutes}"),
        (c.choice([f"cancel the {words(minutes)} minute timer", f"stop the timer of {words(minutes)} minutes"]), f"timer.cancel minutes={minutes}"),
        (c.choice([f"wake me at {clock}", f"alarm at {clock}"]), f"alarm.set time={hour}:{half:02}"),
        (c.choice([f"remind me to {task} at {clock}", f"at {clock} remind me to {task}"]), f"reminder.set task={slug(task)} time={hour}:{half:02}"),
        (c.choice([f"remind me to {task} in {words(minutes)} minutes", f"in {words(minutes)} minutes i have to {task}"]), f"reminder.set task={slug(task)} minutes={minutes}"),
    ])


def music(c):
    song, room, level = c.choice(SONGS), c.choice(ROOMS), c.randint(1, 10)
    return c.choice([
        (c.choice([f"play {song} in the {room}", f"i would like {song} in the {room}", f"put on {song}, {room}"]), f"music.play what={slug(song)} room={slug(room)}"),
        (c.choice([f"stop the music in the {room}", f"quiet in the {room}"]), f"music.stop room={slug(room)}"),
        (c.choice([f"volume {words(level)} in the {room}", f"set the {room} speaker to {words(level)}"]), f"music.volume room={slug(room)} level={level}"),
    ])


def house(c):
    room, share, count, good = c.choice(ROOMS), c.randint(1, 9) * 10, c.randint(2, 12), c.choice(GOODS)
    return c.choice([
        (c.choice([f"open the {room} blinds to {words(share)} percent", f"{room} blinds {words(share)} percent open"]), f"blind.set room={slug(room)} open={share}"),
        (c.choice([f"close the {room} blinds", f"blinds down in the {room}"]), f"blind.set room={slug(room)} open=0"),
        (c.choice([f"lock the {room} door", f"is the {room} door locked, if not lock it"]), f"lock.close door={slug(room)}"),
        (c.choice([f"unlock the {room} door", f"let them in by the {room} door"]), f"lock.open door={slug(room)}"),
        (c.choice([f"show me the {room} camera", f"what is going on in the {room}", f"put the {room} on the screen"]), f"camera.show room={slug(room)}"),
        (c.choice([f"add {good} to the shopping list", f"we need {good}", f"we are out of {good}"]), f"list.add item={slug(good)}"),
        (c.choice([f"add {words(count)} packs of {good} to the list", f"we need {words(count)} packs of {good}"]), f"list.add item={slug(good)} count={count}"),
    ])


def robot(c):
    room, thing, place = c.choice(ROOMS), c.choice(THINGS), c.choice(PLACES)
    steps, side, degrees = c.randint(1, 40), c.choice(["left", "right"]), c.randint(2, 18) * 5
    return c.choice([
        (c.choice([f"bring me the {thing} from the {place}", f"fetch the {thing}, it is at the {place}"]), f"robot.fetch what={slug(thing)} from={slug(place)}"),
        (c.choice([f"take the {thing} to the {place}", f"put the {thing} on the {place}", f"carry the {thing} over to the {place}"]), f"robot.put what={slug(thing)} to={slug(place)}"),
        (c.choice([f"drive {words(steps)} centimetres forward", f"go forward {words(steps)} centimetres"]), f"robot.move cm={steps}"),
        (c.choice([f"back up {words(steps)} centimetres", f"go back {words(steps)} centimetres"]), f"robot.move cm=-{steps}"),
        (c.choice([f"turn {words(degrees)} degrees {side}", f"rotate {side} by {words(degrees)} degrees"]), f"robot.turn degrees={degrees} side={side}"),
        (c.choice([f"vacuum the {room}", f"clean the floor in the {room}", f"the {room} is dusty, clean it"]), f"robot.clean room={slug(room)}"),
        (c.choice([f"wait at the {place} for {words(steps)} minutes", f"stay {words(steps)} minutes at the {place}"]), f"robot.wait at={slug(place)} minutes={steps}"),
        (c.choice([f"go to the {place}", f"drive over to the {place}"]), f"robot.go to={slug(place)}"),
    ])


KINDS = [light, climate, timer, music, house, robot]


def pair(chance):
    """(phrase, meaning)."""
    phrase, meaning = chance.choice(KINDS)(chance)
    before, after = chance.choice(BEFORE), chance.choice(AFTER)
    return before + phrase + after, meaning


def item(chance):
    phrase, meaning = pair(chance)
    return f"say: {phrase}\nmean: {meaning}"


def key(line):
    """A phrase must be new; its meaning may come again, said in other words."""
    return line if line.startswith("say: ") else None
