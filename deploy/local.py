"""The local launcher: a whole cluster as child processes of this one.

What is started first is stopped last: encoder and shards, then the router, which drains before the
processes that it asks go away. Knows how processes are started; what they are is `deploy.plan`'s.
"""

import asyncio
import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime

from deploy.access import write_internal_token
from deploy.child import Child
from deploy.gpus import gpus_here
from deploy.index_place import IndexPlace
from deploy.plan import (
    IndexFacts,
    ProcessSpec,
    UpOptions,
    plan_backends,
    plan_router,
    topology_of,
)
from deploy.state import (
    ClusterPaths,
    ClusterState,
    forget_empty,
    hold_cluster,
    running_version,
    start_time,
    write_state,
)
from deploy.together import all_of, signals_set, unless_set
from shoal.credentials import Credentials, read_token
from shoal.errors import StorageError, UnavailableError
from shoal.json_file import write_json

Say = Callable[[str], None]

_FOLLOW_S = 0.1


def index_facts(place: IndexPlace) -> IndexFacts:
    """What the live version of the index at `place` needs to be served.

    Raises:
        IndexFormatError: there is none, or its manifest doesn't verify.
        ConfigError, UnavailableError, PermissionDeniedError: of a URL.
    """
    manifest = place.manifest()
    return IndexFacts(
        name=manifest.name,
        version=manifest.version,
        n_shards=len(manifest.shards),
        encoder_model=manifest.encoder.model if manifest.encoder else None,
        encoder=manifest.encoder,
    )


async def run_cluster(options: UpOptions, index: IndexFacts, say: Say) -> None:
    """Runs the cluster until SIGTERM, SIGINT or SIGHUP, and leaves nothing behind.

    Raises:
        LockedError: a cluster of this name runs already.
        ConfigError, StorageError: the router may not or can't listen at its address.
        ShoalError: a process ended before it served; everything else has been stopped.
    """
    from deploy.address_check import check_router_address  # noqa: PLC0415 -- `down` does without it

    with hold_cluster(options.name) as paths:
        try:
            check_router_address(options, paths)
            await _Launcher(options, index, paths, say).run()
        finally:
            forget_empty(paths)


class _Launcher:
    def __init__(
        self, options: UpOptions, index: IndexFacts, paths: ClusterPaths, say: Say
    ) -> None:
        self._options = options
        self._index = index
        self._paths = paths
        self._say = say
        self._phase = "starting"
        self._backends = [Child(spec, paths, options.grace_s) for spec in self._plan()]
        self._router = Child(
            plan_router(options, paths), paths, options.grace_s,
            tls=options.tls_certificate is not None,
        )  # fmt: skip

    def _plan(self) -> tuple[ProcessSpec, ...]:
        n_cores = len(os.sched_getaffinity(0))
        gpus = gpus_here(os.environ)
        token = self._paths.internal_token if self._options.closed else None
        return plan_backends(self._options, self._index, n_cores, token, gpus)

    async def run(self) -> None:
        stopping, hurried = asyncio.Event(), asyncio.Event()
        with signals_set(stopping, hurried):
            try:
                self._close_doors()
                self._write_state()
                if await unless_set(stopping, self._start()):
                    await unless_set(stopping, self._keep_running())
            finally:
                await self._stop(hurried)
                self._paths.internal_token.unlink(missing_ok=True)

    def _close_doors(self) -> None:
        """Checks the operator's certificate, and makes the cluster's own token.

        Raises:
            ConfigError: a certificate, key or tokens file that can't serve.
            StorageError: the token can't be written.
        """
        from shoal.rpc import certificates, tokens  # noqa: PLC0415 -- `down` does without them

        options = self._options
        if options.tls_certificate and options.tls_key:
            files = certificates.CertificateFiles(
                certificate=options.tls_certificate,
                key=options.tls_key,
                client_ca=options.tls_client_ca,
            )
            certificates.check_certificates(files, datetime.now(UTC))
        if options.tokens:
            tokens.read_tokens(options.tokens)
        if options.closed:
            write_internal_token(self._paths.internal_token)

    def _credentials(self) -> Credentials:
        token = read_token(self._paths.internal_token) if self._options.closed else ""
        return Credentials(token=token)

    async def _start(self) -> None:
        try:
            async with asyncio.timeout(self._options.start_timeout_s):
                await all_of([self._start_child(child) for child in self._backends])
                await self._check_encoders()
                addresses = [child.address for child in self._backends]
                specs = [child.spec for child in self._backends]
                write_json(self._paths.topology, topology_of(self._index, specs, addresses))
                await self._start_child(self._router)
        except TimeoutError:
            raise UnavailableError(
                f"the cluster did not start within {self._options.start_timeout_s:g} s; "
                f"its logs are in {self._paths.folder}"
            ) from None
        self._phase = "ready"
        self._write_state()
        self._say(
            f"ready: index {self._index.name!r} version {self._index.version} at {self._target()}"
        )
        if self._router.http:
            self._say(f"console: {self._router.http}/")

    async def _start_child(self, child: Child) -> None:
        begun_s = time.monotonic()
        self._say(f"{child.spec.name}: starting")
        await child.start(self._write_state)
        took_s = time.monotonic() - begun_s
        self._say(f"{child.spec.name}: serving on {child.address} after {took_s:.1f} s")

    async def _check_encoders(self) -> None:
        """Refuses an encoder that is not the one that built the index, by what it tells of itself.

        Raises:
            ConfigError: saying how they differ.
        """
        from deploy.encoder_check import check_encoder  # noqa: PLC0415 -- `down` does without it

        recorded = self._index.encoder
        for child in self._backends:
            if recorded is not None and child.spec.role == "encoder":
                await check_encoder(child.address, recorded, self._credentials())

    async def _keep_running(self) -> None:
        children = (*self._backends, self._router)
        await all_of([
            *(child.keep_running(self._say, self._write_state) for child in children),
            self._follow_reloads(),
        ])  # fmt: skip

    async def _follow_reloads(self) -> None:
        """A shard that is started again opens the version that the router moved to.

        The router writes it into the topology file before it searches it.
        """
        while True:
            await asyncio.sleep(_FOLLOW_S)
            version = running_version(self._paths.topology, self._index.name)
            if version in {None, self._index.version}:
                continue
            self._say(f"index {self._index.name!r} moved to version {version}")
            self._index = dataclasses.replace(self._index, version=version)
            for child, spec in zip(self._backends, self._plan(), strict=True):
                child.spec = spec
            self._write_state()

    async def _stop(self, hurried: asyncio.Event) -> None:
        self._phase = "stopping"
        with contextlib.suppress(StorageError):  # a full disk must not keep processes alive
            self._write_state()
        self._say("stopping")
        if not await unless_set(hurried, self._stop_in_order()):
            self._say("killing what has not ended")
            await asyncio.gather(*(child.kill() for child in (self._router, *self._backends)))
        self._say("stopped")

    async def _stop_in_order(self) -> None:
        await self._stop_child(self._router)
        await all_of([self._stop_child(child) for child in self._backends])

    async def _stop_child(self, child: Child) -> None:
        begun_s = time.monotonic()
        if await child.stop():
            self._say(f"{child.spec.name}: ended after {time.monotonic() - begun_s:.1f} s")

    def _target(self) -> str:
        host, _, port = self._router.address.rpartition(":")
        return f"127.0.0.1:{port}" if host in {"0.0.0.0", "[::]"} else self._router.address  # noqa: S104 -- compared, not bound

    def _write_state(self) -> None:
        children = (*self._backends, self._router)
        state = ClusterState(
            name=self._options.name,
            pid=os.getpid(),
            started=start_time(os.getpid()),
            phase=self._phase,
            target=self._target(),
            index_dir=str(self._options.index_dir),
            index=self._index.name,
            version=self._index.version,
            processes=tuple(child.state for child in children),
            index_url=self._options.index_url,
            tls_certificate=str(self._options.tls_certificate or ""),
            tls_key=str(self._options.tls_key or ""),
            internal_token=str(self._paths.internal_token) if self._options.tokens else "",
            http=self._router.http,
        )
        write_state(self._paths, state)
