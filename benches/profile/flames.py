"""Flame graphs, by perf and inferno."""

import shutil
import subprocess

from cells import environment, pgbench

SECONDS = 5


def graph(server, pooler, mode, clients, inferno, path):
    """Writes an SVG, or says why there is none. `inferno`: the folder of its programs."""
    if not shutil.which("perf"):
        print("    no flame graph: perf is not installed")
        return
    argv = pgbench(server, pooler, mode, clients, options=["-S", "-T", str(SECONDS + 2)])
    load = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment())
    data = f"{path}.data"
    try:
        record = ["perf", "record", "-q", "-F", "1999", "--call-graph", "dwarf,16384", "-o", data, "-p", str(pooler.pid), "--", "sleep", str(SECONDS)]
        done = subprocess.run(record, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"    no flame graph: perf record failed: {done.stderr.strip()[-200:]}")
            return
        title = f"{mode}, {clients} clients"
        draw = f'perf script -i "$1" 2>/dev/null | "$2/inferno-collapse-perf" | "$2/inferno-flamegraph" --title "{title}" >"$3"'
        subprocess.run(["bash", "-c", f"set -o pipefail; {draw}", "draw", data, inferno, path], check=True, capture_output=True)
    finally:
        load.kill()
        load.wait()
        subprocess.run(["rm", "-f", data], check=False)
    print(f"    flame graph: {path}", flush=True)
