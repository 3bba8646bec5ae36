"""ClickHouse's engine (chdb, the same code as a library) with its HTTP interface.

    python tests/kit/audit/clickhouse_http.py DIRECTORY [PORT]

POST /?database=NAME&query=SQL with the rows of an INSERT as body, or with the SQL as
body.  The engine parses, stores and answers.  Prints
its port when it listens.
"""

from __future__ import annotations

import sys
import tempfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.util import find_spec
from urllib.parse import parse_qs, urlsplit

spec = find_spec("chdb")
assert spec is not None
assert spec.submodule_search_locations is not None
# The package itself wants pandas and pyarrow, which its engine does without.
sys.path.insert(0, spec.submodule_search_locations[0])

import _chdb  # noqa: E402


class Handler(BaseHTTPRequestHandler):
    engine = _chdb.connect(sys.argv[1])

    def do_POST(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        body = self._body()
        sql = asked.get("query", [""])[0]
        try:
            self.engine.query(f"USE {asked.get('database', ['default'])[0]}", "TSV")
            with tempfile.NamedTemporaryFile() as rows:
                if " FORMAT RowBinary" in sql:
                    rows.write(body)
                    rows.flush()
                    sql = sql.replace(" FORMAT", f" FROM INFILE '{rows.name}' FORMAT")
                else:
                    sql += body.decode()
                answer = bytes(self.engine.query(sql, "TabSeparated").bytes())
        except RuntimeError as error:
            self._answer(500, str(error).encode())
        else:
            self._answer(200, answer)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = bytearray()
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        return bytes(body)

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


server = HTTPServer(("127.0.0.1", int([*sys.argv, "0"][2])), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
