"""Ports that servers listen at."""

import errno
import socket

from charlm.errors import UserError


def check_free(host: str, port: int) -> None:
    """Refuse a port at which a server could not listen.

    MLflow's servers say so with a traceback, or not at all.

    Raises:
        UserError: the port is taken or not to be had, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"--port: {port} is in use: choose another") from None
        raise UserError(f"cannot listen: {error.strerror}") from None
