"""Whether the router may and can listen where it was told to: asked before anything is loaded."""

import socket

from deploy.plan import UpOptions, plan_router
from deploy.state import ClusterPaths
from router.config import RouterConfig
from shoal.config import load_config, refuse_exposed
from shoal.errors import StorageError


def check_router_address(options: UpOptions, paths: ClusterPaths) -> None:
    """Binds the address for a moment; the router itself binds it later, and may still lose it.

    Raises:
        ConfigError: an address that others reach, without `insecure`.
        StorageError: the port is taken, or the address is none of this machine.
    """
    arguments = (*plan_router(options, paths).arguments, "--port", str(options.port))
    config = load_config(RouterConfig, "router", arguments)
    refuse_exposed(config)
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    try:
        socket.create_server((config.host, config.port), family=family).close()
    except OSError as failure:
        raise StorageError(
            f"can't listen on {config.host}:{config.port}: {failure.strerror}; "
            "choose another --port (0 takes any that is free)"
        ) from failure
