"""The live table of the demo."""

from view import View


class Table(View):
    head = (
        f"{'time':>6} {'generation':>10} {'programmed':>10} {'pods':>5} {'size':>6} {'servers':>7} {'tps':>5} {'p50':>8} {'p99':>9} "
        f"{'transactions':>12} {'failed':>6}"
    )

    def row(self, n, at):
        return (
            f"{at:5.1f}s {n['generation']:>10} {n['programmed']:>10} {n['pods']:>5} {n['size']:>6} {n['servers']:>7} {n['tps']:>5.0f} "
            f"{n['p50']:>5.1f} ms {n['p99']:>6.1f} ms {n['done']:>12} {n['failed']:>6}"
        )
