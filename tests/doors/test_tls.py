"""TLS at the door: who is let in, and how a handshake that fails is told (faults 43, 44, 45)."""

import asyncio
import functools
from dataclasses import replace

import grpc
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization

from shoal import attempts
from shoal.client import AsyncClient, Client
from shoal.credentials import Credentials, Tls
from shoal.errors import ConfigError, UnavailableError
from shoal.rpc import certificates, handshake
from shoal.rpc.certificates import CertificateFiles, ServerCertificates, describe_certificate
from shoal.rpc.channel import open_channel
from shoal.rpc.handshake import TLS_HANDSHAKE

VECTOR = np.ones(4, np.float32)
SEARCH = "/shoal.v1.SearchService/Search"


def credentials_of(files, client_ca=None):
    """Served as they are, checked by nobody."""
    pair = (files.key.read_bytes(), files.certificate.read_bytes())
    ca = client_ca.file.read_bytes() if client_ca else None
    return grpc.ssl_server_credentials([pair], ca, require_client_auth=client_ca is not None)


async def ask(target, tls, timeout_s=60.0):
    async with AsyncClient(target, tls=tls) as client:
        return await client.search(vector=VECTOR, timeout_s=timeout_s)


def counting(patch, name):
    """A list that grows with each call of that method of an Attempts."""
    calls, method = [], getattr(attempts.Attempts, name)

    def counted(attempt):
        calls.append(name)
        return method(attempt)

    patch.setattr(attempts.Attempts, name, counted)
    return calls


async def refusal(target, tls):
    """The messages of both clients and both ways of asking: each tries once, and looks once more.

    A client that tried until its time is over would never come back.
    """

    def blocking(method):
        with Client(target, tls=tls) as client:
            asked = (
                functools.partial(client.search, vector=VECTOR)
                if method == "search"
                else client.wait_ready
            )
            with pytest.raises(UnavailableError) as told:
                asked(timeout_s=3_600)
        return told.value

    with pytest.MonkeyPatch.context() as patch:
        counted = {name: counting(patch, name) for name in ("next", "probe")}
        errors = [await asyncio.to_thread(blocking, method) for method in ("search", "wait_ready")]
        with pytest.raises(UnavailableError) as told:
            await ask(target, tls, 3_600)
        async with AsyncClient(target, tls=tls) as client:
            with pytest.raises(UnavailableError) as unready:
                await client.wait_ready(timeout_s=3_600)
    assert len(counted["next"]) == 2, "one attempt a search"
    assert len(counted["probe"]) <= 4
    errors += [told.value, unready.value]
    assert {error.reason for error in errors} == {TLS_HANDSHAKE}
    return {error.message for error in errors}


async def test_a_trusted_certificate_is_let_through(server_on, authority, localhost):
    """The plain case, by name and by address: the certificate carries both."""
    async with server_on(credentials_of(localhost)) as target:
        tls = Tls(ca=authority.file)
        assert (await ask(target, tls)).index == "hidden"
        assert (await ask(target.replace("localhost", "127.0.0.1"), tls)).index == "hidden"


async def test_an_expired_certificate_is_called_expired(server_on, authority):
    """Fault 43: the operator must learn that a renewal was missed, not that "it failed"."""
    files = authority.sign("expired", "localhost", ended=True)
    async with server_on(credentials_of(files)) as target:
        told = await refusal(target, Tls(ca=authority.file))
        assert all("certificate has expired" in message for message in told)


async def test_another_authority_is_named(server_on, authority, stranger, localhost):
    """Fault 43: the error names the file that was trusted, for that is what must change."""
    async with server_on(credentials_of(localhost)) as target:
        told = await refusal(target, Tls(ca=stranger.file))
        wanted = f"is not signed by the authority in {stranger.file}"
        assert all(wanted in message for message in told)


async def test_another_name_is_named(server_on, authority):
    """Fault 43: the name asked for is told; `server_name` is the way to say another."""
    files = authority.sign("elsewhere", "search.example.com")
    async with server_on(credentials_of(files)) as target:
        told = await refusal(target, Tls(ca=authority.file))
        assert all("is not for 'localhost'" in message for message in told)
        assert (await ask(target, Tls(ca=authority.file, server_name="search.example.com"))).index


async def test_a_missing_or_foreign_client_certificate_is_told(
    server_on, authority, stranger, localhost
):
    """Mutual TLS: gRPC says "Socket closed"; a second look says what the server asked for."""
    mine = authority.sign("mine", "client")
    foreign = stranger.sign("foreign", "client")
    async with server_on(credentials_of(localhost, authority)) as target:
        trusting = Tls(ca=authority.file)
        told = await refusal(target, trusting)
        wanted = "asks for a client certificate, and this client has none"
        assert all(wanted in message for message in told)
        told = await refusal(
            target, replace(trusting, certificate=foreign.certificate, key=foreign.key)
        )
        assert all("does not take this client's" in message for message in told)
        known = replace(trusting, certificate=mine.certificate, key=mine.key)
        assert (await ask(target, known)).index == "hidden"


async def test_plaintext_to_tls_is_told_as_that(server_on, localhost):
    """Fault 44: not the deadline, and not "Socket closed"."""
    async with server_on(credentials_of(localhost)) as target:
        told = await refusal(target, None)
        assert all("the server speaks TLS" in message for message in told)


async def test_tls_to_plaintext_is_told_as_that(server_on, authority):
    """Fault 44, the other way round."""
    async with server_on() as target:
        told = await refusal(target, Tls(ca=authority.file))
        assert all("the server speaks plaintext" in message for message in told)


class StepsLeft:
    """A deadline that passes after so many steps, whatever the clock says."""

    def __init__(self, n_steps):
        self._n_left = n_steps

    def after(self, seconds):
        return self

    def remaining_s(self):
        self._n_left -= 1
        return 10.0 if self._n_left >= 0 else 0.0


async def test_the_second_look_has_one_deadline(
    server_on, authority, localhost, stranger, monkeypatch
):
    """Connecting, handshake and reading share the caller's time; each had all of it."""

    async def look(target, tls, n_steps):
        monkeypatch.setattr(handshake, "Deadline", StepsLeft(n_steps))
        address = target.replace("localhost", "127.0.0.1")
        return await asyncio.to_thread(handshake.probe, address, tls)

    trusting = Tls(ca=authority.file)
    async with server_on(credentials_of(localhost, authority)) as target:
        for tls, n_needed, told in (
            (None, 2, "speaks TLS"),
            (Tls(ca=stranger.file), 2, "not signed by"),
            (trusting, 3, "asks for a client certificate"),
        ):
            assert await look(target, tls, n_needed - 1) == ""
            assert told in await look(target, tls, n_needed)


async def test_a_key_with_a_password_is_told_and_never_asked_for(
    server_on, authority, localhost, tmp_path
):
    """OpenSSL would ask at the terminal, from inside a client's thread."""
    mine = authority.sign("locked", "client", folder=tmp_path)
    locked = tmp_path / "locked.pem.key"
    key = serialization.load_pem_private_key(mine.key.read_bytes(), None)
    locked.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    async with server_on(credentials_of(localhost, authority)) as target:
        tls = Tls(ca=authority.file, certificate=mine.certificate, key=locked)
        told = await asyncio.to_thread(handshake.probe, target, tls, 20.0)
        assert told == (
            f"this client's {locked} can't be used: "
            "the key is protected by a password; a process can't be asked for one"
        )


async def test_a_server_that_is_down_is_not_blamed_on_tls(dead_address, authority):
    """A probe that learns nothing says nothing; the retries go on as for any restart."""
    with pytest.raises(UnavailableError) as told:
        await ask(dead_address, Tls(ca=authority.file))
    assert told.value.reason == ""
    assert "no server answers" in told.value.message


async def test_a_new_certificate_is_taken_without_a_restart(
    server_on, authority, stranger, tmp_path, monkeypatch
):
    """Fault 45: calls go on all the while, and a half-written pair changes nothing."""
    monkeypatch.setattr(certificates, "_CHECK_EVERY_S", 0.0)
    files = authority.sign("rotating", "localhost", folder=tmp_path)
    reading = ServerCertificates(CertificateFiles(certificate=files.certificate, key=files.key))
    old, new = Tls(ca=authority.file), Tls(ca=stranger.file)
    async with server_on(reading.credentials()) as target:
        assert (await ask(target, old)).index
        async with AsyncClient(target, tls=old) as client:
            await client.search(vector=VECTOR)
            renewed = stranger.sign("renewed", "localhost", folder=tmp_path)
            renewed.certificate.replace(files.certificate)
            assert (await ask(target, old)).index, "without its key it isn't taken"
            renewed.key.replace(files.key)
            assert (await ask(target, new)).index
            with pytest.raises(UnavailableError):
                await ask(target, old)
            await client.search(vector=VECTOR)  # an open connection goes on


class Load:
    """Three callers on connections that stay, and three on new ones."""

    def __init__(self, target, tls):
        self._target, self._tls = target, tls
        self._stopping = asyncio.Event()
        self._answered = [asyncio.Semaphore(0) for _ in range(6)]

    def start(self, tasks):
        for i, mine in enumerate(self._answered):
            tasks.create_task(self._stay(mine) if i < 3 else self._come_anew(mine))

    def stop(self):
        self._stopping.set()

    async def _stay(self, mine):
        async with AsyncClient(self._target, tls=self._tls) as client:
            while not self._stopping.is_set():
                await client.search(vector=VECTOR, timeout_s=20)
                mine.release()

    async def _come_anew(self, mine):
        while not self._stopping.is_set():
            # one attempt: a retry would hide a refused handshake
            async with open_channel(self._target, Credentials(tls=self._tls)) as channel:
                await channel.unary_unary(SEARCH)(b"", timeout=20)
            mine.release()

    async def each_answered_again(self):
        for mine in self._answered:
            while not mine.locked():  # those until now
                await mine.acquire()
            for _ in range(3):
                await mine.acquire()


async def test_no_call_fails_while_certificates_change(
    server_on, authority, stranger, tmp_path, monkeypatch
):
    """Fault 45, under load: a failed call of six callers ends the test, over three renewals."""
    monkeypatch.setattr(certificates, "_CHECK_EVERY_S", 0.0)
    files = authority.sign("loaded", "localhost", folder=tmp_path)
    reading = ServerCertificates(CertificateFiles(certificate=files.certificate, key=files.key))
    both = tmp_path / "both.pem"
    both.write_bytes(authority.file.read_bytes() + stranger.file.read_bytes())
    async with (
        server_on(reading.credentials()) as target,
        asyncio.timeout(200),
        asyncio.TaskGroup() as tasks,
    ):
        load = Load(target, Tls(ca=both))
        load.start(tasks)
        await load.each_answered_again()
        for signer in (stranger, authority, stranger):
            renewed = signer.sign("renewed", "localhost", folder=tmp_path)
            renewed.certificate.replace(files.certificate)
            await load.each_answered_again()  # with half of the exchange done
            renewed.key.replace(files.key)
            await load.each_answered_again()
            assert (await ask(target, Tls(ca=signer.file))).index, "the new one serves"
        load.stop()


async def test_a_pair_that_changes_while_it_is_read_is_not_taken(
    server_on, authority, tmp_path, monkeypatch
):
    """Checked by path and then read: half of an exchange in between would end every handshake."""
    monkeypatch.setattr(certificates, "_CHECK_EVERY_S", 0.0)
    files = authority.sign("changing", "localhost", folder=tmp_path)
    reading = ServerCertificates(CertificateFiles(certificate=files.certificate, key=files.key))
    old_key, check = files.key.read_bytes(), certificates.check_certificates

    def then_half_exchanged(checked, now):
        check(checked, now)
        authority.sign("other", "localhost", folder=tmp_path).key.replace(checked.key)

    renewed = authority.sign("renewed", "localhost", folder=tmp_path)
    async with server_on(reading.credentials()) as target:
        monkeypatch.setattr(certificates, "check_certificates", then_half_exchanged)
        files.key.write_bytes(old_key)
        assert reading.fetch() is None
        assert (await ask(target, Tls(ca=authority.file))).index
        monkeypatch.setattr(certificates, "check_certificates", check)
        renewed.certificate.replace(files.certificate)
        renewed.key.replace(files.key)
        assert reading.fetch() is not None
        assert reading.fetch() is None, "nothing has changed since"
        assert (await ask(target, Tls(ca=authority.file))).index


def test_files_that_cannot_serve_are_refused_at_the_start(authority, stranger, localhost, tmp_path):
    """A process that starts and then refuses every handshake would look healthy."""
    good = CertificateFiles(certificate=localhost.certificate, key=localhost.key)
    ended = authority.sign("ended", "localhost", ended=True, folder=tmp_path)
    not_pem = tmp_path / "not.pem"
    not_pem.write_text("hello")
    for files, why in (
        (replace(good, certificate=tmp_path / "none.pem"), "can't read"),
        (replace(good, certificate=not_pem), "no PEM file"),
        (replace(good, key=ended.key), "do not go together"),
        (replace(good, client_ca=not_pem), "no PEM file"),
        (CertificateFiles(certificate=ended.certificate, key=ended.key), "expired"),
    ):
        with pytest.raises(ConfigError, match=why):
            ServerCertificates(files)
    ServerCertificates(good)


def test_a_certificate_tells_its_names(localhost):
    """Launchers connect by a name that the certificate carries."""
    files = CertificateFiles(certificate=localhost.certificate, key=localhost.key)
    assert set(describe_certificate(files).names) == {"localhost", "127.0.0.1"}
