"""A model hub on 127.0.0.1 that speaks as much of Hugging Face's and ModelScope's protocols as their clients ask for.

It can break off a download in the middle, once, to see whether the client takes it up again.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """`files` of one repository; `requests` is what was asked: method, path and the Range header."""

    files: dict[str, bytes]
    break_off_after: int | None = None  # bytes of the first answer to a GET of a file
    url: str = ""
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Hub]:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def log_message(self, *args: object) -> None:
        pass

    def _answer(self, with_body: bool) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        url = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        if match := re.match(r"/[^/]+/[^/]+/resolve/[^/]+/(.+)", url.path):
            self._file(unquote(match[1]), with_body)
        elif url.path.endswith("/repo") and "FilePath" in query:
            self._file(query["FilePath"], with_body)
        elif url.path.endswith("/repo/files"):
            listed = [
                {"Path": name, "Name": name.rsplit("/", 1)[-1], "Type": "blob", "Size": len(data), "Revision": COMMIT}
                | {"Sha256": hashlib.sha256(data).hexdigest(), "IsLFS": True, "CommittedDate": 0, "Mode": "33188"}
                for name, data in self.hub.files.items()
            ]
            self._json({"Files": listed, "LatestCommitter": None})
        elif url.path.endswith("/revisions"):
            versions = [{"Revision": "v1.0.0", "CreatedAt": 0}]
            self._json({"RevisionMap": {"Branches": [{"Revision": "master", "CreatedAt": 0}], "Tags": versions}})
        else:
            self._send(404, b"{}", {}, with_body)

    def _json(self, data: object) -> None:
        body = json.dumps({"Code": 200, "Success": True, "Message": "success", "Data": data}).encode()
        self._send(200, body, {"Content-Type": "application/json"}, True)

    def _file(self, name: str, with_body: bool) -> None:
        data = self.hub.files.get(name)
        if data is None:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, with_body)
            return
        digest = hashlib.sha256(data).hexdigest()
        headers = {"ETag": f'"{digest}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        asked = re.match(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status, body = 200, data
        if asked:
            begin, end = int(asked[1]), int(asked[2]) if asked[2] else len(data) - 1
            status, body = 206, data[begin : end + 1]
            headers["Content-Range"] = f"bytes {begin}-{begin + len(body) - 1}/{len(data)}"
        self._send(status, body, headers, with_body)

    def _send(self, status: int, body: bytes, headers: dict[str, str], with_body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if not with_body:
            return
        cut, is_file = self.hub.break_off_after, "ETag" in headers
        if cut is not None and is_file and len(body) > cut:
            self.hub.break_off_after = None
            self.wfile.write(body[:cut])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body)
