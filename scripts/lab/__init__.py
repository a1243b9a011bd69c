"""What the demo and the benchmark share: a throw-away PostgreSQL, a Poolkeeper with a policy file, and a small PostgreSQL client.

Python's standard library only. Everything listens on loopback or on unix sockets, lies in one temporary folder and ends
with the program that started it, even if that is killed.
"""
