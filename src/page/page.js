"use strict";
// Shows the page as it moves: asks for it anew each second and puts what differs in place. Without this the page is whole, too.
(() => {
  const PAUSE = 1000, PATIENCE = 5000, WINDOW = 60000;
  const lost = document.querySelector(".lost");
  const seen = new Map(); // key -> [[time, value]], of the last minute
  let last = new Date();

  // Makes `old` like `fresh` and touches only what differs: focus, selection and opened details stay.
  function morph(old, fresh) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(document.adoptNode(fresh));
    if (old.nodeType === Node.TEXT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeType !== Node.ELEMENT_NODE) return;
    for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    const [was, is] = [[...old.childNodes], [...fresh.childNodes]];
    is.forEach((child, i) => (was[i] ? morph(was[i], child) : old.append(document.adoptNode(child))));
    was.slice(is.length).forEach((child) => child.remove());
  }

  // Remembers a value; what was remembered of the last minute, oldest first.
  function remember(key, value, now) {
    const all = (seen.get(key) ?? []).filter(([time]) => now - time <= WINDOW);
    // A counter that falls belongs to another process.
    if (Array.isArray(value) && all.length && value.some((n, i) => n < all.at(-1)[1][i])) all.length = 0;
    all.push([now, value]);
    seen.set(key, all);
    return all;
  }

  const number = (n) => n.toLocaleString("en", { maximumFractionDigits: n < 10 ? 1 : 0 });
  const seconds = (s) => (s < 1e-3 ? `${number(s * 1e6)} µs` : s < 1 ? `${number(s * 1e3)} ms` : `${number(s)} s`);

  // The bound below which `share` of the counts lie; beyond the last bound: "> bound".
  function percentile(counts, bounds, share) {
    const total = counts.reduce((a, b) => a + b, 0);
    let sum = 0;
    const at = counts.findIndex((n) => (sum += n) >= Math.ceil(total * share));
    return at < bounds.length ? `≤ ${seconds(bounds[at])}` : `> ${seconds(bounds.at(-1))}`;
  }

  function recent(now) {
    for (const element of document.querySelectorAll("[data-counts]")) {
      const all = remember(element.dataset.key, element.dataset.counts.split(",").map(Number), now);
      const [[then, first], [, newest]] = [all[0], all.at(-1)];
      const counts = newest.map((n, i) => n - first[i]), passed = (now - then) / 1000;
      if (passed < 1) continue;
      const total = counts.reduce((a, b) => a + b, 0), span = `last ${Math.round(passed)} s`;
      if (element.dataset.bounds) {
        const bounds = element.dataset.bounds.split(",").map(Number);
        element.textContent = total ? `${span}: ${percentile(counts, bounds, 0.5)}, ${percentile(counts, bounds, 0.99)}` : `${span}: none`;
      } else if (element.dataset.rate !== undefined) element.textContent = `${span}: ${number(total / passed)} a second`;
      else element.textContent = total ? `${span}: ${number(total)} more` : `${span}: none`;
    }
    for (const line of document.querySelectorAll("polyline[data-value]")) {
      const all = remember(line.dataset.key, Number(line.dataset.value), now);
      const points = all.map(([time, value]) => `${(1000 * (1 - (now - time) / WINDOW)).toFixed(1)},${(100 - value).toFixed(1)}`);
      line.setAttribute("points", points.join(" "));
    }
  }

  async function look() {
    try {
      const answer = await fetch(location.pathname, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
      if (!answer.ok) throw new Error(answer.status);
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const [top, main] = [fresh.querySelector(".top"), fresh.querySelector("main")];
      if (!top || !main) throw new Error("another page");
      document.title = fresh.title;
      morph(document.querySelector(".top"), top);
      morph(document.querySelector("main"), main);
      [last, lost.textContent] = [new Date(), ""];
      recent(performance.now());
    } catch {
      lost.textContent = `No answer since ${last.toLocaleTimeString()}: what follows is of then.`;
    }
    setTimeout(look, document.hidden ? 5 * PAUSE : PAUSE);
  }

  recent(performance.now());
  setTimeout(look, PAUSE);
})();
