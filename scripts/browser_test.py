"""The pages of `llmbs serve` and `llmbs report` as a person uses them, driven over WebDriver; see browser-test.sh."""

import argparse
import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

from served import served

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]

# A title that would be a script if anything put it in as markup.
HOSTILE = "<img src=x onerror=document.title='broken'>"


class Browser:
    """One session of chromedriver."""

    def __init__(self, driver, profile):
        self.driver = driver
        options = {"binary": shutil.which("chromium"), "args": [*CHROMIUM, f"--user-data-dir={profile}"]}
        capabilities = {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        asked = {"capabilities": {"alwaysMatch": capabilities}}
        self.session = ""
        self.session = "/session/" + self.ask("POST", "/session", asked)["sessionId"]

    def ask(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.driver + self.session + path, data, method=method)
        request.add_header("Content-Type", "application/json")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as e:
            raise AssertionError(e.read().decode()) from None

    def run(self, script, *args):
        """What a script on the page returns."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(args)})

    def chrome(self, command, **parameters):
        self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def element(self, selector):
        return self.wait(selector, lambda: self.find(selector))

    def find(self, selector):
        found = self.ask("POST", "/elements", {"using": "css selector", "value": selector})
        return found and "/element/" + next(iter(found[0].values()))

    def click(self, selector):
        self.ask("POST", self.element(selector) + "/click", {})

    def type(self, selector, text):
        element = self.element(selector)
        self.ask("POST", element + "/clear", {})
        self.ask("POST", element + "/value", {"text": text})

    def texts(self, selector):
        return self.run("return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText)", selector)

    def wait(self, what, holds):
        """Waits until `holds` gives something."""
        end = time.monotonic() + 30
        while not (found := holds()):
            assert time.monotonic() < end, f"in vain: {what}; the page has {self.texts('main')}"
            time.sleep(0.02)
        return found

    def screenshot(self, path):
        path.write_bytes(base64.b64decode(self.ask("GET", "/screenshot")))

    def size(self, width, height, scheme="light"):
        self.chrome("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.chrome("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def get(port, path, body=None):
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}")
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def names(browser, selector):
    """The titles in a list, without the ids under them."""
    return [text.split("\n")[0] for text in browser.texts(selector + " .name")]


def test(browser, port, screenshots):
    popular = get(port, "/items?top=8")["items"]
    browser.size(1280, 900)
    browser.ask("POST", "/url", {"url": f"http://127.0.0.1:{port}/"})
    browser.wait("the dataset's name", lambda: "Recommendations of" in browser.texts("h1")[0])

    # An empty history: what is popular, and that it is so.
    browser.wait("what is popular", lambda: len(browser.texts("#items > li")) == 10)
    assert names(browser, "#items")[:8] == [item["title"] for item in popular]
    assert "the history is empty" in browser.texts("#note")[0]
    browser.screenshot(screenshots / "empty.png")

    # A search by words, and two of its items into the history.
    words = popular[0]["title"].split()[-4:]
    browser.type("#words", " ".join(words))
    fit = lambda: names(browser, "#found") and all(
        all(word.lower() in name.lower() for word in words) for name in names(browser, "#found")
    )
    browser.wait("items with these words", fit)
    first = names(browser, "#found")[0]
    browser.click("#found li:first-child button")
    browser.type("#words", str(popular[3].get("raw_id", popular[3]["item"])))
    browser.wait("the item of this id", lambda: names(browser, "#found") == [popular[3]["title"]])
    browser.click("#found li:first-child button")
    browser.wait("two items", lambda: names(browser, "#history") == [first, popular[3]["title"]])
    assert browser.run("return document.querySelector('#no-history').hidden")

    # What is shown is what the service recommends.
    ids = [popular[0]["item"], popular[3]["item"]]
    expect = lambda **more: [i["title"] for i in get(port, "/recommend", {"history": ids, **more})["items"]]
    browser.wait("recommendations", lambda: names(browser, "#items") == expect())
    assert all("%" in text for text in browser.texts("#items .scored"))
    browser.click("#items li:first-child summary")
    explained = browser.texts("#items li:first-child details")[0]
    first_item = get(port, "/recommend", {"history": ids, "explain": True})["items"][0]["explanation"]
    for token in first_item["tokens"]:
        stands_for = "this item alone" if token["items"] == 1 else token["typical"][0]["title"]
        assert token["token"] in explained and stands_for in explained, explained
    assert "hares" in explained, explained
    browser.screenshot(screenshots / "recommended.png")

    # Reordered, left out, fewer, removed.
    browser.click("#history li:last-child button[title='move up']")
    ids.reverse()
    browser.wait("the other order", lambda: names(browser, "#items") == expect())
    browser.click("#exclude")
    browser.wait("without the history", lambda: names(browser, "#items") == expect(exclude_history=True))
    browser.type("#top", "3")
    browser.wait("three", lambda: names(browser, "#items") == expect(exclude_history=True, top=3))
    browser.click("#history li:first-child button[title='remove']")
    ids.pop(0)
    browser.wait("one item", lambda: names(browser, "#items") == expect(exclude_history=True, top=3))

    # A user, a description, and what is wrong.
    browser.click("#tab-user")
    browser.type("#user", "7")
    asked = {"user": "7", "top": 3, "exclude_history": True}
    of_user = [item["title"] for item in get(port, "/recommend", asked)["items"]]
    browser.wait("the user's", lambda: names(browser, "#items") == of_user)
    browser.type("#user", "nobody")
    browser.wait("the reason", lambda: 'no user "nobody"' in browser.texts("#note")[0])
    browser.click("#tab-text")
    browser.type("#text", "shampoo for dry hair")
    asked = {"text": "shampoo for dry hair", "top": 3}
    of_text = [item["title"] for item in get(port, "/recommend", asked)["items"]]
    browser.wait("what fits", lambda: names(browser, "#items") == of_text)
    browser.type("#top", "5000")
    browser.wait("the error", lambda: "the most are 1000" in browser.texts("#fault")[0])
    assert browser.texts("#items > li") == []
    browser.screenshot(screenshots / "error.png")
    browser.type("#top", "10")
    browser.wait("all is well again", lambda: browser.texts("#fault") == [""] and len(names(browser, "#items")) == 10)

    # On a phone, in the dark.
    browser.click("#tab-history")
    browser.type("#words", " ")
    browser.wait("popular items", lambda: len(names(browser, "#found")) == 8)
    browser.wait("recommendations", lambda: len(names(browser, "#items")) == 10)
    browser.click("#items li:first-child summary")
    light = browser.run("return getComputedStyle(document.body).backgroundColor")
    browser.size(390, 844, "dark")
    wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] == 390, f"it scrolls sideways: {wide}"
    assert browser.run("return getComputedStyle(document.body).backgroundColor") != light
    height = browser.run("return document.documentElement.scrollHeight")
    browser.size(390, height, "dark")
    browser.screenshot(screenshots / "phone-dark.png")

    # Whatever a title holds, it is text.
    browser.size(1280, 900, "dark")
    browser.run("history = [{ item: 0, title: arguments[0] }]; historyChanged();", HOSTILE)
    browser.wait("the title as it is", lambda: names(browser, "#history") == [HOSTILE])
    browser.wait("recommendations", lambda: len(names(browser, "#items")) == 10)
    assert browser.find("#history img") in ([], None) and "broken" not in browser.run("return document.title")
    browser.screenshot(screenshots / "dark.png")

    log = browser.ask("POST", "/se/log", {"type": "browser"})
    # A refused request is logged by the browser, whatever the page makes of it.
    unexpected = [entry for entry in log if "422" not in entry["message"]]
    assert not unexpected, unexpected


def test_report(browser, page, screenshots):
    """The page of a run opens in every size and light, and scrolls downwards alone."""
    for width in (1280, 390):
        for scheme in ("light", "dark"):
            browser.size(width, 900, scheme)
            browser.ask("POST", "/url", {"url": page.as_uri()})
            assert "Report on" in browser.texts("h1")[0]
            wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1] == width, f"it scrolls sideways: {wide}"
            # What is open is as wide as what is closed; a screenshot shows the page as it is met.
            browser.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
            wide = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1], f"opened, it scrolls sideways: {wide}"
            browser.run("document.querySelectorAll('details').forEach((e) => { e.open = false; })")
            colour = "return getComputedStyle(document.querySelector(arguments[0])).fill"
            text = browser.run(colour, "figure text")
            assert (text == "rgb(154, 165, 177)") == (scheme == "dark"), f"{scheme}: {text}"
            height = browser.run("return document.documentElement.scrollHeight")
            browser.size(width, height, scheme)
            browser.screenshot(screenshots / f"report-{width}-{scheme}.png")
    for link in browser.texts("nav a"):
        assert link in browser.texts("h2"), link
    assert len(browser.texts("article.user")) == 5
    log = browser.ask("POST", "/se/log", {"type": "browser"})
    assert not log, log


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default="target/release/llmbs")
    parser.add_argument("--run", required=True)
    parser.add_argument("--screenshots", required=True, type=pathlib.Path)
    args = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
        page = folder / "report.html"
        subprocess.run([args.program, "report", args.run, "--html", page], check=True)
        _, port = stack.enter_context(served(args.program, args.run))
        profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
        command = ["chromedriver", "--port=0"]
        driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        stack.callback(driver.kill)
        for line in driver.stdout:
            if "successfully on port " in line:
                at = line.split("on port ")[1].strip().rstrip(".")
                break
        else:
            raise SystemExit("chromedriver did not begin")
        browser = Browser(f"http://127.0.0.1:{at}", profile)
        try:
            test(browser, port, args.screenshots)
            test_report(browser, page, args.screenshots)
        finally:
            browser.ask("DELETE", "")
    print(f"the pages work; screenshots are in {args.screenshots}")


main()
