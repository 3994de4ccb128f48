"""Whether the router may and can listen where it was told to: asked before anything is loaded."""

import socket

from deploy.plan import UpOptions, plan_router
from deploy.state import ClusterPaths
from router.config import RouterConfig, refuse_exposed_http
from shoal.config import load_config, refuse_exposed
from shoal.errors import StorageError
from shoal.target import host_port


def check_router_address(options: UpOptions, paths: ClusterPaths) -> None:
    """Binds the address for a moment; the router itself binds it later, and may still lose it.

    Raises:
        ConfigError: an address that others reach, without `insecure`.
        StorageError: the port is taken, or the address is none of this machine.
    """
    arguments = [*plan_router(options, paths).arguments, "--port", str(options.port)]
    if options.http_port is not None:
        arguments += ["--http-port", str(options.http_port)]
    config = load_config(RouterConfig, "router", arguments)
    refuse_exposed(config)
    refuse_exposed_http(config)
    _bind(config.host, config.port, "--port")
    if options.http_port is not None:
        _bind(config.http_host, options.http_port, "--http-port")


def _bind(host: str, port: int, flag: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as failure:
        raise StorageError(
            f"can't listen on {host_port(host, port)}: {failure.strerror}; "
            f"choose another {flag} (0 takes any that is free)"
        ) from failure
