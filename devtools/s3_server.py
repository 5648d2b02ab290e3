"""Runs an S3 server for tests and benchmarks: moto behind a gate that checks what S3 checks, and fails on request.

moto stores the objects. The gate in front of it, on its own port, does what moto does not: it refuses a wrong key or
signature, a wrong clock, and an object that differs from its checksum. ``gate.faults`` makes it fail.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import http.client
import logging
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from devtools.server import Server

BUCKET = "lessons"
KEY_ID = "test-key-id"
KEY_SECRET = "test-key-secret"
REGION = "eu-central-1"

MAX_SKEW = timedelta(minutes=15)
STATUS_OF = {
    "InvalidAccessKeyId": 403,
    "SignatureDoesNotMatch": 403,
    "RequestTimeTooSkewed": 403,
    "AccessDenied": 403,
    "BadDigest": 400,
    "EntityTooLarge": 400,
    "NotImplemented": 501,
    "InternalError": 500,
    "SlowDown": 503,
    "XMinioStorageFull": 507,
}


@dataclass
class Request:
    """One completely received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


Fault = Callable[[Request], "str | None"]
"""Returns how a request fails: an error code of S3, ``cut`` (in mid-upload), ``unanswered`` (done, and the
connection breaks before the answer); None: it does not."""


@dataclass
class Gate:
    """What the gate has received, and how it behaves. May be changed at any time."""

    fault: Fault = lambda request: None
    clock_off_by: timedelta = timedelta()
    key_secret: str = KEY_SECRET
    requests: list[Request] = field(default_factory=list)
    """All accepted requests, without their bodies."""
    one_write: threading.Lock = field(default_factory=threading.Lock)
    """Held for a write: moto checks a condition and writes in two steps."""
    stored: Callable[[Request], object] = lambda request: None
    """Called when a request has been carried out, before its answer is sent."""

    def fail_next(self, *faults: str, method: str = "PUT") -> None:
        """The next requests of this method fail with these faults, in order; later ones succeed."""
        waiting = deque(faults)
        lock = threading.Lock()

        def fault(request: Request) -> str | None:
            with lock:
                return waiting.popleft() if waiting and request.method == method else None

        self.fault = fault

    def fail_always(self, fault: str) -> None:
        """Makes every request fail until :meth:`heal`."""
        self.fault = lambda request: fault

    def heal(self) -> None:
        """Ends all faults."""
        self.fault = lambda request: None


class S3Server(Server):
    """``with S3Server() as server:`` an S3 with one empty bucket, on loopback."""

    def __init__(self) -> None:
        self.gate = Gate()
        self._moto: Any = None
        self._front: ThreadingHTTPServer | None = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def environment(self) -> dict[str, str]:
        """The settings that make the recorder deliver to it."""
        return {
            "S3_ENDPOINT": self.endpoint,
            "S3_REGION": REGION,
            "S3_BUCKET": BUCKET,
            "S3_KEY_ID": KEY_ID,
            "S3_KEY_SECRET": KEY_SECRET,
        }

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        self._moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        self._moto.start()
        self._moto_port = self._moto.get_host_and_port()[1]
        self.reset()

    def reset(self) -> None:
        """Resets everything: one empty bucket, listening, no faults."""
        self._ask("POST", "/moto-api/reset")
        self.make_bucket()
        self.gate.__init__()  # type: ignore[misc]
        if self._front is None:
            self.open()

    def stop(self) -> None:
        self.close()
        if self._moto is not None:
            self._ask("POST", "/moto-api/reset")  # else its objects raise warnings when the interpreter ends
            self._moto.stop()
            self._moto = None

    def open(self) -> None:
        """Listens, on the same port as before."""
        gate, ask = self.gate, self._ask

        class Front(_Front):
            pass

        Front.gate, Front.ask = gate, staticmethod(ask)
        self._front = _Listener(("127.0.0.1", self._port), Front)
        self._port = self._front.server_port
        threading.Thread(
            target=self._front.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    def close(self) -> None:
        """Stops listening: new connections are refused, open ones break. The objects are kept."""
        if self._front is not None:
            self._front.shutdown()
            self._front.server_close()
            self._front.break_all()  # type: ignore[attr-defined]
            self._front = None

    # What is in it, past the gate.

    def make_bucket(self) -> None:
        self._ask("PUT", f"/{BUCKET}", {}, _LOCATION)

    def remove_bucket(self) -> None:
        self._ask("DELETE", f"/{BUCKET}")

    def objects(self) -> dict[str, bytes]:
        """Every object by its key."""
        return {key: self._get(key)[1] for key in self.keys()}

    def keys(self) -> list[str]:
        """The key of every object."""
        from xml.etree import ElementTree

        found: list[str] = []
        token = ""
        while True:
            _, _, listing = self._ask("GET", f"/{BUCKET}?list-type=2{token}")
            tree = ElementTree.fromstring(listing)
            found += [one.text or "" for one in tree.iter() if one.tag.endswith("}Key")]
            more = [one.text or "" for one in tree.iter() if one.tag.endswith("}NextContinuationToken")]
            if not more:
                return found
            token = f"&continuation-token={_quoted(more[0])}"

    def get(self, key: str) -> bytes:
        """One object; empty if there is none."""
        status, data = self._get(key)
        return data if status == 200 else b""

    def headers_of(self, key: str) -> dict[str, str]:
        """The headers that the server returns for an object."""
        return self._ask("HEAD", f"/{BUCKET}/{_quoted(key)}", {"x-amz-checksum-mode": "ENABLED"})[1]

    def put(self, key: str, data: bytes) -> None:
        """Stores an object as another client would."""
        self._ask("PUT", f"/{BUCKET}/{_quoted(key)}", {}, data)

    def _get(self, key: str) -> tuple[int, bytes]:
        status, _, data = self._ask("GET", f"/{BUCKET}/{_quoted(key)}")
        return status, data

    def _ask(
        self, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self._moto_port, timeout=30)
        try:
            headers = {
                "Authorization": f"AWS4-HMAC-SHA256 Credential=x/20200101/{REGION}/s3/aws4_request",
                **(headers or {}),
            }
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read()
        finally:
            connection.close()


_LOCATION = (
    b'<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><LocationConstraint>'
    + REGION.encode()
    + b"</LocationConstraint></CreateBucketConfiguration>"
)


def _quoted(key: str) -> str:
    return quote(key, safe="/")


class _Listener(ThreadingHTTPServer):
    """Remembers its connections, so that they can be broken."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, *args: Any) -> None:
        self._open: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores broken connections."""

    def break_all(self) -> None:
        for connection in list(self._open):
            _break(connection)


def _break(connection: socket.socket) -> None:
    """Resets a connection (RST)."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)


class _Front(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gate: Gate
    ask: Callable[..., tuple[int, dict[str, str], bytes]]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _handle(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, self.path, headers, b"")
        fault = self.gate.fault(request)
        size = int(headers.get("content-length", 0))
        if fault == "cut":
            self.rfile.read(size // 2)
            self._hang_up()
            return
        request.body = self.rfile.read(size)
        refusal = fault if fault != "unanswered" else None
        refusal = refusal or self._refusal(request)
        if refusal:
            self._refuse(refusal)
        else:
            self._pass_on(request, hang_up=fault == "unanswered")

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _handle

    def _pass_on(self, request: Request, *, hang_up: bool) -> None:
        dropped = ("host", "connection")
        kept = {name: value for name, value in request.headers.items() if name not in dropped}
        with self.gate.one_write if request.method == "PUT" else contextlib.nullcontext():
            status, headers, body = type(self).ask(request.method, request.path, kept, request.body)
        self.gate.requests.append(Request(request.method, request.path, request.headers, b""))
        self.gate.stored(request)
        if hang_up:
            self._hang_up()
            return
        self.send_response_only(status)
        for name, value in headers.items():
            if name not in ("connection", "transfer-encoding", "content-length"):
                self.send_header(name, value)
        length = headers.get("content-length", "0") if request.method == "HEAD" else str(len(body))
        self.send_header("Content-Length", length)
        self.end_headers()
        if request.method != "HEAD":
            self.wfile.write(body)

    def _refusal(self, request: Request) -> str | None:
        """The error code with which S3 would refuse the request; None if it would not."""
        now = datetime.now(UTC) + self.gate.clock_off_by
        stamp = request.headers.get("x-amz-date", "")
        if stamp and abs(now - _moment(stamp)) > MAX_SKEW:
            return "RequestTimeTooSkewed"
        if "X-Amz-Signature" not in request.path:
            if f"Credential={KEY_ID}/" not in request.headers.get("authorization", ""):
                return "InvalidAccessKeyId"
            if not _is_signed_with(request, self.gate.key_secret):
                return "SignatureDoesNotMatch"
        promised = request.headers.get("x-amz-checksum-sha256")
        if promised and base64.b64encode(hashlib.sha256(request.body).digest()).decode() != promised:
            return "BadDigest"
        return None

    def _refuse(self, code: str) -> None:
        body = (
            f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>on command</Message></Error>".encode()
        )
        self.send_response_only(STATUS_OF[code])
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        _break(self.connection)


def _encoded(text: str) -> str:
    """Encodes text as it is signed, however it was sent: a space may be sent as ``+``."""
    return quote(text, safe="-_.~")


def _moment(stamp: str) -> datetime:
    return datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)


def _is_signed_with(request: Request, secret: str) -> bool:
    """Whether the signature (version 4) is the one that this secret makes."""
    from botocore.auth import S3SigV4Auth
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    words = dict(
        part.strip().split("=", 1) for part in request.headers["authorization"].partition(" ")[2].split(",")
    )
    signed = words["SignedHeaders"].split(";")
    url = f"http://{request.headers['host']}{request.path}"
    again = AWSRequest(
        request.method, url, {name: request.headers[name] for name in signed if name != "host"}
    )
    again.context["timestamp"] = request.headers["x-amz-date"]
    region = words["Credential"].split("/")[2]
    auth = S3SigV4Auth(Credentials(KEY_ID, secret), "s3", region)
    query = urlsplit(url).query
    text = "\n".join(
        (
            request.method,
            urlsplit(url).path,
            "&".join(sorted(f"{_encoded(name)}={_encoded(value)}" for name, value in parse_qsl(query, True))),
            "".join(f"{name}:{request.headers[name].strip()}\n" for name in sorted(signed)),
            ";".join(sorted(signed)),
            request.headers["x-amz-content-sha256"],
        )
    )
    return bool(auth.signature(auth.string_to_sign(again, text), again) == words["Signature"])
