"""Errors as HTTP answers: one line each, in the words of whoever asked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from aiohttp import web

from arpipam.errors import AddressInUseError, ArpipamError, InputError, PoolExhaustedError
from launcher.agent.server.docker_ipam import one_line, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LONGEST_BODY = 64 * 1024
STOPPING = "the agent is stopping; try again once it is back"
OURS = "/arpipam/"
BAD_REQUEST, NOT_FOUND, CONFLICT, TOO_LARGE, FAILED, UNAVAILABLE = 400, 404, 409, 413, 500, 503
_DOCKER = "application/vnd.docker.plugins.v1.1+json"
_LONGEST_PATH = 100
_log = logging.getLogger(__name__)


def docker(status: int, said: Mapping[str, Any]) -> web.Response:
    """An answer to an engine."""
    return web.json_response(said, status=status, content_type=_DOCKER)


def error(status: int, what: object, exit_status: int) -> web.Response:
    """An error of the agent's own API."""
    return web.json_response({"error": one_line(what), "exit_status": exit_status}, status=status)


def busy(what: str) -> web.Response:
    """Not now."""
    return error(UNAVAILABLE, what, ArpipamError.exit_status)


@web.middleware
async def one_line_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error is one line, and no traceback leaves the program."""
    path = request.path[:_LONGEST_PATH]
    try:
        return await handler(request)
    except ArpipamError as refused:
        return error(_status(refused), refused, refused.exit_status)
    except web.HTTPException as refused:
        status = refused.status
        said = {
            NOT_FOUND: f"nothing is at {path}",
            TOO_LARGE: f"the request's body is larger than {LONGEST_BODY} bytes",
        }.get(status, f"{request.method} {path}: {refused.reason}")
    except ConnectionError:  # the caller is gone
        raise
    except (Exception, SystemExit) as failure:  # noqa: BLE001 - whatever it is; a request never ends the agent
        _log.exception("%s failed", path)
        said, status = f"arpipam: {path} failed ({type(failure).__name__}); the agent's log says more", FAILED
    if request.path.startswith(OURS):
        return error(status, said, InputError.exit_status if status < FAILED else ArpipamError.exit_status)
    return docker(status, refusal(said))


def _status(refused: ArpipamError) -> int:
    if isinstance(refused, InputError):
        return BAD_REQUEST
    return CONFLICT if isinstance(refused, (AddressInUseError, PoolExhaustedError)) else FAILED
