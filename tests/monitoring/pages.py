"""The pages for people, as a browser shows them: light and dark, wide and narrow, moving, and whole without script."""

import os
import time

from chromium import Page
from world import get

# Text whose contrast to what is behind it is below 4.5 (WCAG 2.2, AA), with the ratio.
FAINT = """(() => {
  const parse = (c) => (c.match(/[\\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c.length === 3 || c[3] > 0) return c; } return [255, 255, 255]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || ["STYLE", "SCRIPT"].includes(e.tagName)) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < 4.5) found.push(`${walk.currentNode.data.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()"""
UNNAMED = """[...document.querySelectorAll('svg')].filter((s) => !s.getAttribute('aria-label') && s.getAttribute('aria-hidden') !== 'true').length"""
GROUND = "getComputedStyle(document.body).backgroundColor"
# The pool under load.
POOL = "[...document.querySelectorAll('section')].find((s) => s.querySelector('h2').textContent === 'orders')"
TRANSACTIONS = f"[...{POOL}.querySelectorAll('dt')].find((t) => t.textContent === 'Transactions').nextSibling.firstChild.data"
TRAIL = f"{POOL}.querySelector('polyline').points.numberOfItems"


def check(world, browser, screenshots):
    """Both pages; pictures of them go to the folder `screenshots`, if there is one."""
    problems = []
    if screenshots:
        os.makedirs(screenshots, exist_ok=True)
    for which in ("sidecar", "operator"):
        url, grounds = f"http://127.0.0.1:{world.ports[which]}/", set()
        still = Page(browser, url, script=False)
        for dark in (False, True):
            page = Page(browser, url, dark=dark)
            if which == "sidecar":
                problems += moves(page)
                if not dark:
                    problems += numbers(page, world)
            problems += looks(page, f"{which}, {'dark' if dark else 'light'}")
            grounds.add(page.evaluate(GROUND))
            if screenshots:
                if which == "sidecar":
                    page.until(f"{TRAIL} > 12", "some of the trail", 30)
                page.screenshot(f"{screenshots}/{which}-{'dark' if dark else 'light'}.png")
            page.close()
        if len(grounds) != 2:
            problems.append(f"{which}: light and dark look the same")
        narrow = Page(browser, url, width=360)
        if (width := narrow.evaluate("document.documentElement.scrollWidth")) > 360:
            problems.append(f"{which}: {width} pixels wide on a screen of 360")
        if screenshots:
            narrow.screenshot(f"{screenshots}/{which}-narrow.png")
        narrow.close()
        end = time.monotonic() + 15
        while still.loads() < 2 and time.monotonic() < end:
            time.sleep(0.2)
        if still.loads() < 2:
            problems.append(f"{which}: without script it stands still")
        problems += [f"{which}, without script: {said}" for said in still.complaints()]
        still.close()
    return problems


def looks(page, where):
    problems = [f"{where}: the browser says {said}" for said in page.complaints()]
    problems += [f"{where}: too faint: {text}" for text in page.evaluate(FAINT)]
    if unnamed := page.evaluate(UNNAMED):
        problems.append(f"{where}: {unnamed} pictures without a name")
    if page.evaluate("document.querySelectorAll('h1').length") != 1:
        problems.append(f"{where}: not one heading of the first level")
    return problems


def moves(page):
    """The script changes the page without loading it anew, and leaves alone what the reader has done."""
    page.evaluate("document.querySelector('details').open = true; window.here = document.querySelector('details')")
    before = page.evaluate(TRANSACTIONS)
    page.until(f"{TRANSACTIONS} !== {before!r}", "the page to move")
    page.until(f"{TRAIL} >= 3", "a trail")
    page.until("document.body.textContent.includes('last ')", "what was of late")
    problems = []
    if not page.evaluate("window.here.isConnected && window.here.open && document.querySelectorAll('details').length === 2"):
        problems.append("sidecar: a refresh closes what the reader has opened")
    if page.loads() != 1:
        problems.append("sidecar: the page is loaded anew")
    if page.evaluate("document.querySelector('.lost').textContent"):
        problems.append("sidecar: it says that nobody answers")
    return problems


def numbers(page, world):
    """What stands on the page stands in /status, and no secret does."""
    problems, seen = [], ""
    for _ in range(20):
        # Under load they may be of two moments; they meet soon.
        text = page.evaluate("document.body.innerText")
        pool = {pool["database"]: pool for pool in world.status()["pools"]}["orders"]
        wanted = [f"{pool['connections']['checked_out']} of {pool['connections']['limit']} in use", f"revision {pool['revision']}"]
        if all(part in text for part in wanted):
            break
        seen = text
        time.sleep(0.3)
    else:
        problems.append(f"sidecar: {wanted} do not stand in\n{seen}")
    source = get(world.ports["sidecar"], "/")
    if "the-password" in source or "the-password" in text:
        problems.append("sidecar: a password stands on the page")
    for part in ("checkout <i>&amp;", "invoices", "listen", "audit is unhealthy"):
        if part not in text:
            problems.append(f"sidecar: {part!r} does not stand on the page")
    return problems


def check_end(world, browser):
    """When the sidecar ends, the page says that what it shows is old."""
    page = Page(browser, f"http://127.0.0.1:{world.ports['sidecar']}/")
    page.until(f"{TRAIL} >= 2", "the page to move")
    world.sidecar.stop()
    page.until("document.querySelector('.lost').textContent.startsWith('No answer since')", "the page to say so")
    return [] if page.evaluate("document.querySelector('main').textContent.length > 100") else ["sidecar: the page is empty when it ends"]
