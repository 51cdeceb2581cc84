"""Questions that need the fold itself are forwarded to a follower, over HTTP on loopback.

The owner of a shard never answers queries. What a follower serves is in `stream_processors/app.py`.
"""

from __future__ import annotations

import httpx

from infra.http.tokens import POSITION_HEADER
from projections.read_ports import FollowerUnavailable, ForeignAnswer

TIMEOUT_S = 5.0
_PASSED_ON = (POSITION_HEADER, "Retry-After")


class FollowerClient:
    """One follower, by its URL."""

    def __init__(self, url: str, transport: httpx.AsyncBaseTransport | None = None) -> None:
        """Connects at the first question."""
        self._http = httpx.AsyncClient(base_url=url, timeout=TIMEOUT_S, transport=transport)

    async def explain(
        self, job_id: str, min_position: str | None, request_id: str
    ) -> ForeignAnswer:
        """The follower's answer as it is, errors included. Raises `FollowerUnavailable`."""
        params = {"min_position": min_position} if min_position is not None else {}
        try:
            headers = {"X-Request-Id": request_id}
            answer = await self._http.get(f"/explain/{job_id}", params=params, headers=headers)
            body = answer.json()
        except (httpx.TransportError, ValueError) as error:
            raise FollowerUnavailable(str(error) or type(error).__name__) from error
        if not isinstance(body, dict):
            raise FollowerUnavailable("what answers there is no follower")
        passed = {name: answer.headers[name] for name in _PASSED_ON if name in answer.headers}
        return ForeignAnswer(answer.status_code, body, passed)

    async def close(self) -> None:
        """Give the connections back."""
        await self._http.aclose()
