"""The system calls: a handler for each, by name."""

from ..desk import Handler
from . import aio, copies, data, files, pipes, sockets

HANDLERS: dict[str, Handler] = {
    **sockets.HANDLERS,
    **data.HANDLERS,
    **copies.HANDLERS,
    **pipes.HANDLERS,
    **aio.HANDLERS,
    **files.HANDLERS,
}
