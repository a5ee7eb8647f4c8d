"""Looks at the status pages and the pages of a job and a study through Chromium: what is drawn, what is asked for,
what went wrong.

    check.py CHROMIUM DEVICE FLEET JOB STUDY [SCREENSHOTS]

CHROMIUM is a browser, DEVICE and FLEET the programs of device.rs and fleet.rs, JOB a page of `sapwood adapt`
(20 steps, reported every 5, scored every 10), STUDY one of `sapwood study` (three domains: lines, CKA, a plane and
two reservoirs), SCREENSHOTS a folder for pictures. Speaks the
DevTools protocol over a pipe, so nothing but the standard library is needed.
"""

import base64
import fcntl
import json
import os
import pathlib
import select
import subprocess
import sys
import tempfile
import time

WAIT_SECONDS = 60
TOKEN = "a-token-for-one-check"
FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-dev-shm-usage", "--remote-debugging-pipe",
]


class Browser:
    """One page of a headless browser."""

    def __init__(self, program, profile):
        to_read, to_write = os.pipe()
        from_read, from_write = os.pipe()
        # The browser reads from 3 and writes to 4; neither may be one of ours meanwhile.
        theirs = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in (to_read, from_write)]

        def arrange():
            os.dup2(theirs[0], 3)
            os.dup2(theirs[1], 4)

        command = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, preexec_fn=arrange, pass_fds=(3, 4),
        )
        for one in [to_read, from_write, *theirs]:
            os.close(one)
        self.out, self.into = to_write, from_read
        self.number, self.held, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def message(self, deadline):
        while b"\0" not in self.held:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self.into], [], [], left)[0]:
                raise SystemExit("the browser does not answer")
            more = os.read(self.into, 1 << 20)
            if not more:
                raise SystemExit("the browser is gone")
            self.held += more
        one, self.held = self.held.split(b"\0", 1)
        return json.loads(one)

    def call(self, method, **params):
        self.number += 1
        request = {"id": self.number, "method": method, "params": params}
        if self.session:
            request["sessionId"] = self.session
        data = json.dumps(request).encode() + b"\0"
        while data:
            data = data[os.write(self.out, data):]
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            answer = self.message(deadline)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise SystemExit(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def value(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise SystemExit(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, expression):
        deadline = time.monotonic() + WAIT_SECONDS
        while not self.value(expression):
            if time.monotonic() > deadline:
                raise SystemExit(f"did not come about in {WAIT_SECONDS} s: {expression}")
            time.sleep(0.1)

    def open(self, url, width=1100, height=1000, dark=False):
        self.events.clear()
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.protocol !== 'about:'")

    def picture(self, folder, name):
        if folder:
            shot = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
            pathlib.Path(folder, f"{name}.png").write_bytes(base64.b64decode(shot["data"]))

    def troubles(self):
        """What the page or the browser complained of since it was opened."""
        self.value("0")
        found = []
        for event in self.events:
            kind, params = event.get("method"), event.get("params", {})
            if kind == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"].get("text", "an exception"))
            elif kind == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(params["entry"]["text"])
            elif kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning"):
                found.append(str(params["args"]))
        return found

    def asked(self):
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]


failures = []


def expect(what, holds, got=""):
    print(("ok      " if holds else "FAILED  ") + what + ("" if holds else f": {got}"), flush=True)
    if not holds:
        failures.append(what)


def full(page, origin, pictures):
    page.open(f"http://{origin}/")
    page.until("document.querySelectorAll('#jobs tbody tr').length > 0")
    points = page.value("document.querySelector('#loss polyline:last-of-type').getAttribute('points').split(' ').length")
    expect("the loss curve has its points", points >= 120, points)
    curves = page.value("document.querySelectorAll('#loss polyline').length")
    expect("three losses are drawn", curves == 3, curves)
    marks = page.value("document.querySelectorAll('#bits circle').length")
    expect("nine judged jobs have three texts, before and after", marks == 54, marks)
    finite = page.value("[...document.querySelectorAll('svg *')].every((one) => [...one.attributes].every((a) => !/NaN|Infinity/.test(a.value)))")
    expect("every place in the curves is a number", finite)
    rows = page.value("document.querySelectorAll('#jobs tbody tr').length")
    expect("every job has a row", rows == 11, rows)
    text = page.value("document.body.innerText")
    for part in ("Generation in use", "8 kept, 1 dropped", "412", "of 500 blocks", "temperature", "86.5 °C", "old text worse by 2.1 %",
                 "83 %", "Waiting", "1 d 2 h"):
        expect(f"the page says `{part}`", part in text, text[:400])
    met = page.value("[...document.querySelectorAll('#constraints li')].map((li) => li.innerText[0]).join('')")
    expect("constraints are met or not", met == "✓✓✗✓✓", met)
    hostile = page.value("[document.querySelectorAll('img, main script').length, window.hostile]")
    expect("hostile text stays text", hostile[0] == 0 and "onerror=" in text, hostile)
    expect("nothing hostile ran", page.value("window.hostile === undefined"))
    page.until(f"document.querySelector('#loss polyline:last-of-type').getAttribute('points').split(' ').length > {points}")
    expect("the curve grows", True)
    outside = [url for url in page.asked() if not url.startswith((f"http://{origin}/", "data:"))]
    expect("nothing is asked of anybody else", not outside, outside)
    expect("nobody complains", not page.troubles(), page.troubles())
    page.picture(pictures, "light")
    page.value("const one = document.createElement('script'); one.textContent = 'window.hostile = 2'; document.body.append(one)")
    expect("a script without the nonce does not run", page.value("window.hostile === undefined"))
    ground = page.value("getComputedStyle(document.body).backgroundColor")
    page.open(f"http://{origin}/", dark=True)
    page.until("document.querySelectorAll('#jobs tbody tr').length > 0")
    other = page.value("getComputedStyle(document.body).backgroundColor")
    expect("dark is dark", ground != other, other)
    page.picture(pictures, "dark")


def narrow(page, origin, pictures):
    page.open(f"http://{origin}/", width=360, height=760)
    page.until("document.querySelectorAll('#jobs tbody tr').length > 0")
    width = page.value("document.documentElement.scrollWidth")
    expect("a phone need not scroll sideways", width <= 360, width)
    expect("nobody complains on a phone", not page.troubles(), page.troubles())
    page.picture(pictures, "phone")


def empty(page, origin, pictures):
    page.open(f"http://{origin}/")
    page.until("!document.getElementById('main').hidden")
    text = page.value("document.body.innerText")
    for part in ("Loading the base", "Bare base", "Nothing yet", "None yet"):
        expect(f"a device that has just begun says `{part}`", part in text, text[:400])
    expect("nobody complains at the beginning", not page.troubles(), page.troubles())
    page.picture(pictures, "empty")


def locked(page, origin, pictures, name, rows):
    shown = f"document.querySelectorAll('{rows}').length > 0"
    page.open(f"http://{origin}/")
    page.until("!document.getElementById('door').hidden")
    expect(f"without the token {name} shows nothing", page.value("document.getElementById('main').hidden"))
    page.picture(pictures, f"{name}-door")
    enter = "document.getElementById('token').value = '{}'; document.querySelector('#door button').click()"
    page.value(enter.format("not the token"))
    page.until("document.getElementById('notice').innerText.includes('not the token')")
    page.value(enter.format(TOKEN))
    page.until(shown)
    expect(f"with it {name} shows all", page.value("document.getElementById('door').hidden"))
    page.open(f"http://{origin}/")
    page.until(shown)
    expect(f"{name} keeps it for the tab", not page.troubles(), page.troubles())


def gone(page, origin, device):
    page.open(f"http://{origin}/")
    page.until("document.querySelectorAll('#jobs tbody tr').length > 0")
    device.stdin.close()
    device.wait(timeout=WAIT_SECONDS)
    page.until("document.getElementById('notice').innerText.includes('does not answer')")
    kept = page.value("document.querySelectorAll('#jobs tbody tr').length")
    expect("a device that is gone is said to be, and what was known stays", kept == 11, kept)


def fleet(page, origin, pictures):
    page.open(f"http://{origin}/", width=1300)
    page.until("document.querySelectorAll('#cohorts tbody tr').length > 0")
    rows = page.value("[...document.querySelectorAll('#cohorts tbody')].map((one) => one.rows.length).join()")
    expect("releases and rounds have their rows", rows == "3,4", rows)
    marks = page.value("document.querySelectorAll('#cohorts svg circle').length")
    expect("three releases have bits per byte before and after", marks == 6, marks)
    stages = page.value("[...document.querySelectorAll('.stages span')].map((one) => `${one.innerText} ${one.className}`).join(', ')")
    expect("the rollout stands at 25 %", stages == "lab done, 1 % done, 5 % done, 25 % now, 50 % , 100 % ", stages)
    text = page.value("document.body.innerText")
    for part in ("3 devices take part, 1 of them silent, 1 with a release on trial; 1 wait, 1 are suspended", "85 %", "5 %",
                 "2.500 → 2.300", "12 merged; 12.3 % of the energy left out; fewer than 50 devices", "12 of 20", "paused", "1 of 20 devices reverted it, expected at most 2 %", "open"):
        expect(f"the fleet's page says `{part}`", part in text, text[:800])
    hostile = page.value("[document.querySelectorAll('img, main script').length, window.hostile === undefined]")
    expect("hostile text stays text there too", hostile == [0, True] and "onerror=" in text, hostile)
    outside = [url for url in page.asked() if not url.startswith((f"http://{origin}/", "data:"))]
    expect("nothing is asked of anybody else there", not outside, outside)
    expect("nobody complains there", not page.troubles(), page.troubles())
    page.picture(pictures, "fleet")
    page.open(f"http://{origin}/", width=360, height=760, dark=True)
    page.until("document.querySelectorAll('#cohorts tbody tr').length > 0")
    width = page.value("document.documentElement.scrollWidth")
    expect("a phone need not scroll sideways there", width <= 360, width)
    page.picture(pictures, "fleet-phone")


def without_devices(page, origin):
    page.open(f"http://{origin}/")
    page.until("!document.getElementById('main').hidden")
    text = page.value("document.body.innerText")
    expect("a fleet without devices says how they come", "enroll-link" in text, text[:400])
    expect("nobody complains of a fleet without devices", not page.troubles(), page.troubles())


def by_itself(page, file, name, pictures):
    """A file that is open needs nothing beside it, and fits a phone."""
    asked = [url for url in page.asked() if not url.startswith("file:")]
    expect(f"a {name}'s page asks for nothing", not asked, asked)
    expect(f"nobody complains of a {name}'s page", not page.troubles(), page.troubles())
    page.picture(pictures, name)
    page.open(pathlib.Path(file).resolve().as_uri(), width=360, height=760, dark=True)
    width = page.value("document.documentElement.scrollWidth")
    expect(f"a phone need not scroll a {name}'s page sideways", width <= 360, width)
    page.picture(pictures, f"{name}-phone")


def job(page, file, pictures):
    page.open(pathlib.Path(file).resolve().as_uri())
    curves = page.value("[...document.querySelectorAll('svg')].map((one) => one.querySelectorAll('polyline').length).join()")
    expect("a job's losses and scores are drawn", curves == "2,1,2", curves)
    points = page.value("[...document.querySelectorAll('polyline')].map((one) => one.getAttribute('points').split(' ').length).join()")
    expect("each curve has its points", points == "4,4,4,3,3", points)
    text = page.value("document.body.innerText")
    for part in ("kept: new", "plan: ", "steps-per-report", "onerror=alert(1)", "generation in use: 1"):
        expect(f"a job's page says `{part}`", part in text, text[:400])
    expect("a domain's name stays text", page.value("document.querySelectorAll('img, script').length") == 0)
    by_itself(page, file, "job", pictures)


def study(page, file, pictures):
    page.open(pathlib.Path(file).resolve().as_uri())
    # Two lines between neighbours, three between learners (nothing is old at the first) and the whole; then two maps of
    # CKA, a plane and a curve.
    curves = page.value("[...document.querySelectorAll('svg')].map((one) => one.querySelectorAll('polyline').length).join()")
    expect("a study's lines, maps and curve are drawn", curves == "6,6,4,6,6,6,0,0,0,1", curves)
    cells = page.value("[...document.querySelectorAll('svg')].map((one) => one.querySelectorAll('rect').length).join()")
    expect("its maps have their cells", all(count != "0" for count in cells.split(",")[6:9]), cells)
    text = page.value("document.body.innerText")
    for part in ("after", "barrier old", "Spearman's rho", "linear CKA", "history", "device_logs"):
        expect(f"a study's page says `{part}`", part.lower() in text.lower(), text[:400])
    expect("no number of a study is none", "NaN" not in text and "inf" not in text.lower().split(), text[:400])
    by_itself(page, file, "study", pictures)


def main():
    chromium, program, fleet_program, job_page, study_page = sys.argv[1:6]
    pictures = sys.argv[6] if len(sys.argv) > 6 else None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        token = pathlib.Path(folder, "token")
        token.touch(mode=0o600)
        token.write_text(TOKEN)
        device = subprocess.Popen([program, token], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        addresses = json.loads(device.stdout.readline())
        server = subprocess.Popen([fleet_program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        fleets = json.loads(server.stdout.readline())
        page = Browser(chromium, pathlib.Path(folder, "profile"))
        try:
            full(page, addresses["full"], pictures)
            narrow(page, addresses["full"], pictures)
            empty(page, addresses["empty"], pictures)
            locked(page, addresses["token"], pictures, "device", "#jobs tbody tr")
            fleet(page, fleets["full"], pictures)
            without_devices(page, fleets["empty"])
            locked(page, fleets["token"], pictures, "fleet", "#cohorts tbody tr")
            job(page, job_page, pictures)
            study(page, study_page, pictures)
            gone(page, addresses["full"], device)
        finally:
            page.process.kill()
            page.process.wait()
            for one in (device, server):
                one.kill()
                one.wait()
    if failures:
        raise SystemExit(f"{len(failures)} of the page's checks failed")


main()
