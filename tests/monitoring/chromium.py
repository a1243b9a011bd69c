"""A Chromium without a screen, over its debugging pipe (the DevTools protocol: JSON, each message ended by a zero byte)."""

import base64
import json
import os
import select
import time

from lab import process


class Browser:
    """Started by the constructor; process.end_all() ends it."""

    def __init__(self, program):
        self.home = process.folder("browser")
        to_browser, self.write_end = os.pipe()
        self.read_end, from_browser = os.pipe()
        flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run --remote-debugging-pipe"
        script = f'exec "$0" {flags} --user-data-dir="$1" about:blank 3<&{to_browser} 4>&{from_browser}'
        for end in (to_browser, from_browser):
            os.set_inheritable(end, True)
        self.process = process.Process(
            "the browser", ["bash", "-c", script, program, self.home], f"{self.home}/log", pass_fds=(to_browser, from_browser)
        )
        os.close(to_browser)
        os.close(from_browser)
        self.number, self.buffer, self.events = 0, b"", []

    def call(self, method, session=None, **params):
        """Asks, and waits for the answer; what happens meanwhile is kept in `events`."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read(30)
            if answer.get("id") != self.number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def stop(self):
        """Closes it and waits until the last of its processes has let go of the pipe: none writes to its folder any more."""
        if self.process.gone():
            return
        os.write(self.write_end, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
        while select.select([self.read_end], [], [], 10)[0] and os.read(self.read_end, 1 << 16):
            pass

    def drain(self, seconds):
        """Takes in events for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self.events.append(self._read(left))
            except TimeoutError:
                return

    def _read(self, seconds):
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_end], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser is silent; its last words:\n{self.process.tail()}")
            piece = os.read(self.read_end, 1 << 16)
            if not piece:
                raise RuntimeError(f"the browser has ended; its last words:\n{self.process.tail()}")
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)


class Page:
    """One tab."""

    def __init__(self, browser, url, dark=False, script=True, width=1100, height=900):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.target = target
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setScriptExecutionDisabled", value=not script)
        self.call("Page.navigate", url=url)
        process.wait_for(lambda: self.loads() >= 1, f"{url} to load", 20)

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def _of(self, method):
        self.browser.drain(0.02)
        return [event["params"] for event in self.browser.events if event.get("sessionId") == self.session and event["method"] == method]

    def loads(self):
        """How often the document was loaded."""
        return len(self._of("Page.loadEventFired"))

    def complaints(self):
        """Exceptions, refusals by the content security policy, failed requests."""
        said = [entry["entry"]["text"] for entry in self._of("Log.entryAdded")]
        return said + [thrown["exceptionDetails"]["text"] for thrown in self._of("Runtime.exceptionThrown")]

    def evaluate(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def until(self, expression, what, seconds=15):
        return process.wait_for(lambda: self.evaluate(expression), what, seconds, pause=0.2)

    def screenshot(self, path):
        picture = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)["data"]
        with open(path, "wb") as out:
            out.write(base64.b64decode(picture))

    def close(self):
        self.browser.call("Target.closeTarget", targetId=self.target)
