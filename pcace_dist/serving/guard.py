"""What keeps the page to those who may see it: the names that it answers to, and what a browser may do with it.

A page of another site could have its own name point to 127.0.0.1 (DNS rebinding) and read what is served here. So only
addresses and this machine's names are answered. Names from the data are text for the templates; the content policy
forbids scripts that are not this package's all the same.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_POLICY = "Content-Security-Policy"
HEADERS = {
    CONTENT_POLICY: "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
REPORT_POLICY = (  # report.html brings its own scripts; it runs in an origin of its own, and reaches nothing
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; sandbox allow-scripts allow-downloads allow-modals"
)


class Guard:
    """Wraps an application: refuses foreign names, and adds HEADERS that a response does not have itself."""

    def __init__(self, app: ASGIApp, host: str) -> None:
        self._app = app
        self._names = {"localhost", host.lower(), socket.gethostname().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        app = self._app if self._is_own(Headers(scope=scope).get("host", "")) else REFUSAL
        await app(scope, receive, send_guarded)

    def _is_own(self, host: str) -> bool:
        """Whether a Host header is an address, or a name of this machine."""
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            ip_address(name)
        except ValueError:
            return name.lower() in self._names
        return True


REFUSAL = PlainTextResponse(
    "This page answers to localhost, to addresses, and to the name that --host gives.\n", status_code=421
)
