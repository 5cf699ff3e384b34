"""A daemon asked over its HTTP API, for tests that start real processes but have many questions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

from sidecar.paths import DaemonRecord, DataPaths
from tests.support.processes import wait_for

if TYPE_CHECKING:
    from tests.support.processes import Sidecar


class Api:
    """What the command line would ask, without starting Python for each question. Knows a restarted daemon again."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._paths = DataPaths(sidecar.data_dir)

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        record = DaemonRecord.read(self._paths)
        assert record is not None, "no daemon runs here"
        token = self._paths.token.read_text().strip()
        headers = {"Authorization": f"Bearer {token}"} | options.pop("headers", {})
        return httpx.request(method, f"http://{record.api}{path}", headers=headers, timeout=60, **options)

    def get(self, path: str) -> Any:
        response = self.request("GET", f"/api/v1{path}")
        assert response.status_code == 200, response.text
        return response.json()

    def post(self, path: str, **body: Any) -> Any:
        response = self.request("POST", f"/api/v1{path}", json=body)
        assert response.status_code < 300, response.text
        return response.json()

    def row(self, name: str) -> dict[str, Any]:
        """The offer of that name, once a connected peer holds it."""

        def found() -> dict[str, Any] | None:
            rows: list[dict[str, Any]] = self.get("/adapters")
            return next((row for row in rows if row["name"] == name and row["sources"]), None)

        row: dict[str, Any] = wait_for(found, f"an offer of {name}")
        return row

    def finished(self, transfer: str, timeout_s: float = 50.0) -> dict[str, Any]:
        """A transfer as it ended."""

        def ended() -> dict[str, Any] | None:
            info: dict[str, Any] = self.get(f"/transfers/{transfer}")
            return info if info["state"] in ("done", "failed", "cancelled") else None

        info: dict[str, Any] = wait_for(ended, "the end of a transfer", timeout_s)
        return info

    def got(self, ref: str, **options: Any) -> dict[str, Any]:
        """A whole `get` that must succeed."""
        info = self.finished(self.post("/transfers", ref=ref, **options)["id"])
        assert info["state"] == "done", info["error"]
        return info
