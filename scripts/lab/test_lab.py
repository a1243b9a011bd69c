"""The lab's own arithmetic: `python3 -m unittest discover -s scripts/lab -t scripts -p 'test_*.py'`, part of `make test`."""

import os
import sys
import unittest

from lab import poolkeeper, wire

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../../benches/compare"))
import figures  # noqa: E402


class Scram(unittest.TestCase):
    def test_the_exchange_of_rfc_7677(self):
        client = wire._Scram("pencil")
        client.bare = "n=user,r=rOprNGfwEbeRWgbNEkqO"
        server = b"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096"
        self.assertIn(b",p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=", client.final(server))
        client.verify(b"v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
        with self.assertRaises(OSError):
            client.verify(b"v=AAAA")


class Messages(unittest.TestCase):
    def test_a_row_with_null_and_empty(self):
        self.assertEqual(wire._row(b"\0\3\0\0\0\2hi\xff\xff\xff\xff\0\0\0\0"), ["hi", None, ""])

    def test_fields_of_an_error(self):
        self.assertEqual(wire.fields(b"C53300\0Mtoo many\0\0"), {"C": "53300", "M": "too many"})


class Yaml(unittest.TestCase):
    def test_nested_and_quoted(self):
        text = poolkeeper.yaml({"spec": {"pool": {"size": 5, "prePing": True}, "health": {"query": "SELECT 1"}}})
        self.assertEqual(text, "spec:\n  pool:\n    size: 5\n    prePing: true\n  health:\n    query: SELECT 1")


class Figures(unittest.TestCase):
    def test_ratios_are_of_pairs(self):
        series = figures.Series([1.0, 4.0, 9.0], [2.0, 4.0, 3.0])
        self.assertEqual(series.ratio(), 1.0)
        self.assertEqual(series.spread(), (0.5, 3.0))

    def test_quartiles_and_percentiles(self):
        self.assertEqual(figures.middle([5, 1, 2, 3, 4]), (2, 4))
        self.assertEqual(figures.percentile([10, 0], 0.5), 5)
        self.assertEqual(figures.percentile([7], 0.99), 7)


if __name__ == "__main__":
    unittest.main()
