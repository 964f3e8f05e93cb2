# SPDX-License-Identifier: Apache-2.0
"""One live page of the fleet. No resource of another site, no inline script, and the session is a strict cookie."""

from importlib import resources
from urllib.parse import parse_qs

from fastapi import FastAPI
from jinja2 import Environment, PackageLoader
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from fleet_server.adapters.access.tokens import create_token, find_caller, hash_secret
from fleet_server.api.access_control import COOKIE, identify, read_body
from fleet_server.api.parts import ServerParts

SESSION_S = 12 * 3600.0
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}
_STATIC = {"fleet.js": "text/javascript", "fleet.css": "text/css", "icon.svg": "image/svg+xml"}


def add_page(app: FastAPI, parts: ServerParts) -> None:
    """Add the page, its login and its two static files to the management application."""
    templates = Environment(loader=PackageLoader("fleet_server.api"), autoescape=True)

    def render(name: str, status: int = 200, **values: object) -> Response:
        content = templates.get_template(name).render(tenant=parts.settings.tenant, **values)
        return HTMLResponse(content, status_code=status, headers=_HEADERS)

    @app.get("/", include_in_schema=False)
    def show_fleet(request: Request) -> Response:
        caller = identify(parts, request)
        if caller is None:
            return render("login.html")
        return render("fleet.html", caller=caller)

    @app.post("/login", include_in_schema=False)
    async def log_in(request: Request) -> Response:
        fields = parse_qs((await read_body(request)).decode("utf-8", "replace"))
        session = _open_session(parts, fields.get("token", [""])[0].strip())
        if session is None:
            return render("login.html", 403, wrong=True)
        answer = RedirectResponse("/", status_code=303, headers=_HEADERS)
        answer.set_cookie(COOKIE, session, max_age=int(SESSION_S), httponly=True, samesite="strict", path="/")
        return answer

    @app.post("/logout", include_in_schema=False)
    def log_out(request: Request) -> Response:
        session = request.cookies.get(COOKIE, "")
        with parts.database.write() as connection:
            connection.exec_driver_sql(
                "DELETE FROM api_token WHERE token_sha256 = ? AND expires_at IS NOT NULL", (hash_secret(session),)
            )
        answer = RedirectResponse("/", status_code=303, headers=_HEADERS)
        answer.delete_cookie(COOKIE, path="/")
        return answer

    @app.get("/static/{name}", include_in_schema=False)
    def static_file(name: str) -> Response:
        if name not in _STATIC:
            return Response(status_code=404)
        content = (resources.files("fleet_server.api") / "static" / name).read_bytes()
        return Response(content, media_type=_STATIC[name], headers=_HEADERS)


def _open_session(parts: ServerParts, token: str) -> str | None:
    """Return the secret of a new session for a right token: with the same name, but only good for half a day."""
    now = parts.clock()
    with parts.database.write() as connection:
        caller = find_caller(connection, token, now) if token else None
        if caller is None:
            return None
        return create_token(connection, name=caller.name, role=caller.role, now=now, lifetime_s=SESSION_S)
