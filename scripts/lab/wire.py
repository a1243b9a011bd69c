"""A small PostgreSQL client: log in (trust, password, md5, SCRAM-SHA-256), simple queries, text results."""

import base64
import hashlib
import hmac
import os
import socket
import ssl
import struct


class ServerError(Exception):
    """An ErrorResponse; `sqlstate` and `message` as the server sent them."""

    def __init__(self, fields):
        self.sqlstate = fields.get("C", "")
        self.message = fields.get("M", "")
        super().__init__(f"{self.sqlstate} {self.message}")


class Connection:
    """One session. `host` is an address or, starting with /, the socket's folder; with `tls` it is encrypted, no certificate being checked."""

    def __init__(self, host, port, user, database, password="", timeout=30.0, tls=False, **parameters):
        if host.startswith("/"):
            self.sock = socket.socket(socket.AF_UNIX)
            address = f"{host}/.s.PGSQL.{port}"
        else:
            self.sock = socket.socket(socket.AF_INET)
            address = (host, port)
        self.sock.settimeout(timeout)
        self.buffer = b""
        self.parameters = {}
        self.pid = 0
        try:
            self.sock.connect(address)
            if self.sock.family == socket.AF_INET:
                self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self._encrypt()
            self._log_in(user, database, password, parameters)
        except BaseException:
            self.sock.close()
            raise

    def query(self, sql):
        """Runs one or more statements; the rows of all of them as lists of strings (None for NULL)."""
        self._send(b"Q", sql.encode() + b"\0")
        return self.result()

    def send(self, sql):
        """Sends a query without waiting for the answer: `result()` reads that."""
        self._send(b"Q", sql.encode() + b"\0")

    def result(self):
        """Reads up to ReadyForQuery."""
        rows, error = [], None
        while True:
            tag, body = self._message()
            if tag == b"D":
                rows.append(_row(body))
            elif tag == b"E":
                error = ServerError(fields(body))
            elif tag == b"S":
                self._parameter(body)
            elif tag == b"Z":
                if error:
                    raise error
                return rows

    def prepare(self, name, sql):
        """Prepares a named statement."""
        self._send(b"P", name.encode() + b"\0" + sql.encode() + b"\0\0\0")
        self._send(b"S", b"")
        self.result()

    def execute(self, name, values):
        """Runs a prepared statement with parameters as text; its rows as of `query`."""
        body = b"\0" + name.encode() + b"\0\0\0" + struct.pack("!h", len(values))
        for value in values:
            body += struct.pack("!i", len(value.encode())) + value.encode()
        self._send(b"B", body + b"\0\0")
        self._send(b"E", b"\0\0\0\0\0")
        self._send(b"S", b"")
        return self.result()

    def send_goodbye(self):
        """Tells the server that nothing more comes; the socket stays open."""
        self._send(b"X", b"")

    def close(self):
        try:
            self.send_goodbye()
        except OSError:
            pass
        self.sock.close()

    def _log_in(self, user, database, password, parameters):
        pairs = {"user": user, "database": database, **parameters}
        body = b"".join(k.encode() + b"\0" + v.encode() + b"\0" for k, v in pairs.items()) + b"\0"
        self.sock.sendall(struct.pack("!ii", len(body) + 8, 196608) + body)
        scram = None
        while True:
            tag, body = self._message()
            if tag == b"E":
                raise ServerError(fields(body))
            if tag == b"S":
                self._parameter(body)
            elif tag == b"K":
                self.pid = struct.unpack("!i", body[:4])[0]
            elif tag == b"Z":
                return
            elif tag == b"R":
                kind = struct.unpack("!i", body[:4])[0]
                if kind == 3:
                    self._send(b"p", password.encode() + b"\0")
                elif kind == 5:
                    inner = hashlib.md5((password + user).encode()).hexdigest()
                    self._send(b"p", b"md5" + hashlib.md5(inner.encode() + body[4:8]).hexdigest().encode() + b"\0")
                elif kind == 10:
                    scram = _Scram(password)
                    first = scram.first()
                    self._send(b"p", b"SCRAM-SHA-256\0" + struct.pack("!i", len(first)) + first)
                elif kind == 11:
                    self._send(b"p", scram.final(body[4:]))
                elif kind == 12:
                    scram.verify(body[4:])
                elif kind != 0:
                    raise OSError(f"authentication method {kind} is not spoken here")

    def _encrypt(self):
        self.sock.sendall(struct.pack("!ii", 8, 80877103))
        if self.sock.recv(1) != b"S":
            raise OSError("the server does not speak TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        self.sock = context.wrap_socket(self.sock)

    def _parameter(self, body):
        name, value = body.split(b"\0")[:2]
        self.parameters[name.decode()] = value.decode()

    def _send(self, tag, body):
        self.sock.sendall(tag + struct.pack("!i", len(body) + 4) + body)

    def _message(self):
        head = self._read(5)
        return head[:1], self._read(struct.unpack("!i", head[1:])[0] - 4)

    def _read(self, count):
        while len(self.buffer) < count:
            piece = self.sock.recv(65536)
            if not piece:
                raise OSError("the server closed the connection")
            self.buffer += piece
        out, self.buffer = self.buffer[:count], self.buffer[count:]
        return out


class _Scram:
    """The client's side of SCRAM-SHA-256 (RFC 5802, RFC 7677), without channel binding."""

    def __init__(self, password):
        self.password = password.encode()
        self.bare = "n=,r=" + base64.b64encode(os.urandom(18)).decode()

    def first(self):
        return ("n,," + self.bare).encode()

    def final(self, server_first):
        text = server_first.decode()
        parts = dict(part.split("=", 1) for part in text.split(","))
        salted = hashlib.pbkdf2_hmac("sha256", self.password, base64.b64decode(parts["s"]), int(parts["i"]))
        client_key = _mac(salted, b"Client Key")
        without_proof = f"c=biws,r={parts['r']}"
        auth = f"{self.bare},{text},{without_proof}".encode()
        signature = _mac(hashlib.sha256(client_key).digest(), auth)
        proof = bytes(a ^ b for a, b in zip(client_key, signature))
        self.expected = base64.b64encode(_mac(_mac(salted, b"Server Key"), auth)).decode()
        return f"{without_proof},p={base64.b64encode(proof).decode()}".encode()

    def verify(self, server_final):
        if server_final.decode() != f"v={self.expected}":
            raise OSError("the server's SCRAM signature is wrong")


def _mac(key, data):
    return hmac.new(key, data, "sha256").digest()


def _row(body):
    (count,), at, row = struct.unpack("!h", body[:2]), 2, []
    for _ in range(count):
        (length,) = struct.unpack("!i", body[at : at + 4])
        at += 4
        row.append(None if length < 0 else body[at : at + length].decode())
        at += max(length, 0)
    return row


def fields(body):
    """Code → text, of an ErrorResponse or a NoticeResponse."""
    return {part[:1].decode(): part[1:].decode("utf-8", "replace") for part in body.split(b"\0") if part}
