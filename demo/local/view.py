"""The live table. On a terminal it is redrawn in place; elsewhere a line is printed now and then."""

import shutil
import sys
import threading
import time

HEAD = f"{'time':>6} {'size':>5} {'over':>4} {'in use':>6} {'idle':>4} {'waiting':>7} {'at server':>9} {'clients':>7} {'tps':>5} {'latency':>8}  pool"


class View:
    """Samples the pool by `sample()` (a dict of numbers) until stop(); say() puts a lasting line above the table. Another table is a
    subclass with its own `head` and `row`."""

    head = HEAD

    def __init__(self, sample, pause=0.5, every=2.0):
        self.sample = sample
        self.live = sys.stdout.isatty()
        self.pause = 0.2 if self.live else pause
        self.every = every
        self.began = time.monotonic()
        self.lock = threading.Lock()
        self.drawn = 0
        self.rows = []
        self.most = 8  # rows of the table on a terminal
        self._printed = 0.0
        self._stop = threading.Event()
        if not self.live:
            print(self.head)
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def say(self, text):
        with self.lock:
            self._erase()
            print(text)
            self._draw()

    def stop(self):
        self._stop.set()
        self.thread.join(5)

    def _run(self):
        while not self._stop.is_set():
            try:
                row = self.row(self.sample(), time.monotonic() - self.began)
            except (OSError, ValueError):  # the sidecar is on its way out: nothing to show
                row = None
            if row:
                with self.lock:
                    self._show(row)
            self._stop.wait(self.pause)

    def _show(self, row):
        now = time.monotonic()
        if self.live:
            # The last line is now; above it the past, one row every `every` seconds.
            if now - self._printed >= self.every / 2 or not self.rows:
                self.rows = self.rows[-self.most + 1 :] + [row]
                self._printed = now
            else:
                self.rows[-1] = row
            self._erase()
            self._draw()
        elif now - self._printed >= self.every:
            print(row)
            self._printed = now

    def row(self, n, at):
        bar = _bar(n["in_use"], n["idle"], n["limit"])
        return (
            f"{at:5.1f}s {n['size']:>5} {n['max_overflow']:>4} {n['in_use']:>6} {n['idle']:>4} {n['waiting']:>7} {n['at_server']:>9} "
            f"{n['clients']:>7} {n['tps']:>5.0f} {n['latency']:>5.1f} ms  {bar}"
        )

    def _erase(self):
        if self.drawn:
            sys.stdout.write(f"\x1b[{self.drawn}A\x1b[J")
            self.drawn = 0

    def _draw(self):
        if self.live and self.rows:
            width = shutil.get_terminal_size().columns - 1  # a row that wraps would count as two
            print(f"\x1b[2m{self.head[:width]}\x1b[0m")
            for row in self.rows[:-1]:
                print(row[:width])
            print(f"\x1b[1m{self.rows[-1][:width]}\x1b[0m")
            self.drawn = len(self.rows) + 1
        sys.stdout.flush()


def _bar(in_use, idle, limit, width=30):
    """# = in use, - = open and idle, . = may be opened; a character is one connection, of a larger pool the limit's 30th part."""
    most = max(limit, in_use + idle)
    scale = most / width if most > width else 1
    used, free = round(in_use / scale), round(idle / scale)
    return "#" * used + "-" * free + "." * max(0, round(limit / scale) - used - free)
