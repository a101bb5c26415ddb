"""Headless Chromium by its driver's protocol (W3C WebDriver), for tests that look at a page."""

import json
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.slurm import free_port

DRIVER = shutil.which("chromedriver")
ARGUMENTS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")


class Browser:
    """A browser window."""

    def __init__(self, address: str):
        self.address = address
        options = {"args": list(ARGUMENTS)}
        always = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        self.session = self.call("POST", "/session", {"capabilities": {"alwaysMatch": always}})["sessionId"]

    def call(self, method: str, path: str, body: Any = None) -> Any:
        data = json.dumps(body or {}).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, data, {"Content-Type": "application/json"}, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def open(self, page: Path) -> None:
        self.call("POST", f"/session/{self.session}/url", {"url": page.resolve().as_uri()})

    def run(self, script: str) -> Any:
        """The value that a script returns."""
        return self.call("POST", f"/session/{self.session}/execute/sync", {"script": script, "args": []})

    def emulate(self, command: str, **parameters: Any) -> None:
        body = {"cmd": command, "params": parameters}
        self.call("POST", f"/session/{self.session}/goog/cdp/execute", body)

    def complaints(self) -> list[str]:
        """What the page wrote to the console, such as violations of its policy."""
        return [entry["message"] for entry in self.call("POST", f"/session/{self.session}/se/log", {"type": "browser"})]

    def close(self) -> None:
        self.call("DELETE", f"/session/{self.session}")


@contextmanager
def open_browser() -> Iterator[Browser]:
    assert DRIVER
    port = free_port()
    driver = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser = connect(f"http://127.0.0.1:{port}")
        yield browser
        browser.close()
    finally:
        driver.terminate()
        driver.wait(10)


def connect(address: str) -> Browser:
    for _ in range(100):
        try:
            return Browser(address)
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(f"no driver at {address}")
