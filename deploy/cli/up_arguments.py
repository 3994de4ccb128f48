"""`shoal up`'s options as its command line, for the launcher that `--detach` starts. Pure."""

from deploy.plan import UpOptions


def up_arguments(options: UpOptions) -> list[str]:
    """What `shoal` must be given to come to the same options."""
    arguments = [
        "up", "--name", options.name, "--index", options.index_url or str(options.index_dir),
        "--replicas", str(options.replicas), "--host", options.host, "--port", str(options.port),
        "--grace-s", str(options.grace_s), "--start-timeout-s", str(options.start_timeout_s),
    ]  # fmt: skip
    if options.http_port is not None:
        arguments += ["--http-port", str(options.http_port), "--http-host", options.http_host]
    if options.insecure:
        arguments.append("--insecure")
    for flag, value in (
        ("--cache-dir", options.index_dir.parent if options.index_url else None),
        ("--device", options.device), ("--model", options.model),
        ("--tls-certificate", options.tls_certificate), ("--tls-key", options.tls_key),
        ("--tls-client-ca", options.tls_client_ca), ("--tokens", options.tokens),
        ("--live-recall-budget", options.live_recall_budget),
    ):  # fmt: skip
        arguments += [] if value in (None, "") else [flag, str(value)]
    return [*arguments, *options.traces.router_arguments]
