"""Who may ask the HTTP port, and what one caller can do to it."""

import asyncio
import io
import json
import socket
import ssl

import aiohttp
import pytest
import trustme
from fakes.cluster import running

from deploy.doctor.facts import doors
from deploy.doctor.facts.doors import knock
from deploy.doctor.facts.sockets import Listening
from router.config import RouterConfig, refuse_exposed_http
from router.http import bodies, port, sending
from router.http.pages import read_pages
from router.http.visitors import is_own_host
from shoal.errors import ConfigError, StorageError
from shoal.rpc.tokens import entry_of, new_token, with_entry

ASKED = {"queries": ["a"]}


def test_a_name_that_others_can_point_here_is_not_ours():
    """DNS rebinding: a page's own domain, pointed at 127.0.0.1, is this port's neighbour."""
    ours = (
        "127.0.0.1:80",
        "localhost",
        "LOCALHOST:9",
        "[::1]:80",
        "10.1.2.3:80",
        "box:80",
        "x.localhost",
    )
    strange = (
        "evil.example",
        "evil.example:80",
        "",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
    )
    assert all(is_own_host(host, frozenset({"box"})) for host in ours)
    assert not any(is_own_host(host, frozenset({"box"})) for host in strange)


async def test_other_sites_pages_are_refused(site):
    """By Host, Origin or Sec-Fetch-Site, before anything is read; its own page is not."""
    own = {"Origin": site.url, "Sec-Fetch-Site": "same-origin"}
    assert (await site.post("/retrieve", json=ASKED, headers=own))[0] == 200
    for headers in (
        {"Host": "evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": site.url.replace("http:", "https:")},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        status, body = await site.post("/retrieve", json=ASKED, headers=headers)
        assert (status, body["error"]["code"]) == (403, "PERMISSION_DENIED"), headers
        assert (await site.get("/api/topology", headers=headers))[0] == 403
    # a link from elsewhere may open the page itself
    async with site.client.get(site.url, headers={"Sec-Fetch-Site": "cross-site"}) as answer:
        assert answer.status == 200


async def test_a_form_is_no_question(site):
    """Any site's page can send a form or plain text without asking first; JSON it can't."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        headers = {"Content-Type": kind}
        status, body = await site.post("/retrieve", data=json.dumps(ASKED), headers=headers)
        assert status == 400
        assert "application/json" in body["error"]["message"]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'"a"', b"[" * 100_000, b'{"queries":' + b"9" * 5000 + b"}", b"\xff"]
)
async def test_what_is_no_json_object_is_refused(site, body):
    """One line, no traceback, and the port lives on."""
    headers = {"Content-Type": "application/json"}
    status, told = await site.post("/retrieve", data=body, headers=headers)
    assert (status, told["error"]["code"]) == (400, "INVALID_ARGUMENT")
    assert (await site.post("/retrieve", json=ASKED))[0] == 200


async def test_a_body_above_the_limit_is_refused(site):
    """16 MiB, as over gRPC; said or found out on the way."""
    content = json.dumps({"queries": ["x" * (17 << 20)]}).encode()

    async def pieces():
        for start in range(0, len(content), 1 << 20):
            yield content[start : start + (1 << 20)]

    for data in (io.BytesIO(content), pieces()):
        headers = {"Content-Type": "application/json"}
        status, told = await site.post("/retrieve", data=data, headers=headers)
        assert (status, told["error"]["code"]) == (413, "INVALID_ARGUMENT")


async def test_a_compressed_body_is_not_unpacked(site):
    """A few bytes must not become gigabytes."""
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    status, _ = await site.post("/retrieve", data=b"\x1f\x8b\x08\x00", headers=headers)
    assert status == 400


async def test_slow_peers_are_let_go(tmp_path, port_over, monkeypatch):
    """Of headers, or of a body; other callers notice nothing."""
    monkeypatch.setattr(port, "IDLE_S", 0.3)
    monkeypatch.setattr(bodies, "BODY_S", 0.3)
    monkeypatch.setattr(port, "LINGER_S", 0.3)
    async with running(tmp_path) as cluster, port_over(cluster) as url:
        host, number = url.removeprefix("http://").split(":")

        async def told(sent: bytes) -> bytes:
            reader, writer = await asyncio.open_connection(host, int(number))
            writer.write(sent)
            async with asyncio.timeout(60):
                answer = await reader.read()
            writer.close()
            return answer

        head = (
            f"POST /retrieve HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            "Content-Length: {}\r\n\r\n"
        )
        assert await told(b"POST /retr") == b""
        assert b" 408 " in await told(head.format(1000).encode() + b'{"queries')
        monkeypatch.setattr(bodies, "BODY_S", 20.0)  # on a busy machine all are slow
        async with (
            aiohttp.ClientSession() as client,
            client.post(f"{url}/retrieve", json=ASKED) as answer,
        ):
            assert answer.status == 200


async def test_an_answer_that_nobody_takes_keeps_no_room(tmp_path, port_over, monkeypatch):
    """The only connection there is room for doesn't read: it is cut, and another one served."""
    monkeypatch.setattr(port, "MAX_CONNECTIONS", 1)
    monkeypatch.setattr(sending, "SEND_S", 0.3)
    asked = {"queries": ["a"] * 218, "topk": 300, "return_scores": True}
    body = json.dumps(asked).encode()  # some 8 MB come back: more than the kernel's buffers take
    async with running(tmp_path) as cluster, port_over(cluster) as url:
        host, number = url.removeprefix("http://").split(":")
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(deaf, (host, int(number)))
            head = f"POST /retrieve HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
            head += f"Content-Length: {len(body)}\r\n\r\n"
            await loop.sock_sendall(deaf, head.encode() + body)
            status = 503
            async with asyncio.timeout(60), aiohttp.ClientSession() as client:
                while status == 503:
                    await asyncio.sleep(0.05)
                    async with client.get(f"{url}/health") as answer:
                        status = answer.status
            assert status == 200


async def test_no_more_connections_than_there_is_room_for(tmp_path, port_over, monkeypatch):
    """The next one hears so at once; when one goes, there is room again."""
    monkeypatch.setattr(port, "MAX_CONNECTIONS", 2)
    async with running(tmp_path) as cluster, port_over(cluster) as url:
        host, number = url.removeprefix("http://").split(":")
        held = [await asyncio.open_connection(host, int(number)) for _ in range(2)]
        reader, writer = await asyncio.open_connection(host, int(number))
        async with asyncio.timeout(60):
            answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        assert b" 503 " in head.splitlines()[0]
        assert json.loads(body)["error"]["code"] == "RESOURCE_EXHAUSTED"
        assert f"Content-Length: {len(body)}".encode() in head
        held[0][1].close()
        statuses = [503]
        async with asyncio.timeout(60), aiohttp.ClientSession() as client:
            while statuses[-1] == 503:
                async with client.post(f"{url}/retrieve", json=ASKED) as again:
                    statuses.append(again.status)
        assert statuses[-1] == 200
        held[1][1].close()


async def test_every_answer_has_the_headers_of_a_careful_page(site):
    """Pages, answers and refusals: nothing inline, nothing framed, nothing kept."""
    for path in ("/", "/console/main.js", "/api/topology", "/nothing", "/retrieve"):
        async with site.client.get(site.url + path) as answer:
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["Referrer-Policy"] == "no-referrer"
            assert answer.headers["Server"] == "shoal"
            assert len(answer.headers["x-request-id"]) == 32
            if not answer.ok:
                assert list(await answer.json()) == ["error"]
    async with site.client.get(site.url + "/retrieve") as answer:
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")


def test_the_pages_keep_the_policy():
    """No script or style stands in the page, and no other site is named in any file."""
    pages = read_pages()
    page = pages["/"].content.decode()
    assert "<style" not in page
    assert " style=" not in page
    assert " onclick" not in page
    assert page.count("<script") == page.count("<script src=") + page.count(
        '<script type="module" src='
    )
    for path, file in pages.items():
        text = file.content.decode().replace("http://www.w3.org/2000/svg", "")
        assert "http://" not in text, path
        assert "https://" not in text, path
        assert "innerHTML" not in text, path


async def test_tokens_are_asked_for_by_scope(tmp_path, port_over):
    """search opens the door; admin alone doesn't; addresses and questions need admin as well."""
    made, text = {}, ""
    for name, scopes in (("web", ["search"]), ("ops", ["admin"]), ("both", ["search", "admin"])):
        made[name] = new_token()
        text = with_entry(text, entry_of(name, made[name], scopes, None))
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(text)

    def shown(name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {made[name]}"}

    async with (
        running(tmp_path) as cluster,
        port_over(cluster, tokens=tokens) as url,
        aiohttp.ClientSession() as client,
    ):

        async def ask(path: str, headers: dict[str, str], **arguments):
            method = "POST" if arguments else "GET"
            async with client.request(method, url + path, headers=headers, **arguments) as answer:
                return answer.status, await answer.json()

        for path in ("/api/topology", "/api/slow", "/api/calibration"):
            assert (await ask(path, {}))[0] == 401
        status, body = await ask("/retrieve", {}, json=ASKED)
        assert (status, body["error"]["code"]) == (401, "UNAUTHENTICATED")
        assert "books" not in json.dumps(body)
        assert (await ask("/retrieve", {"Authorization": "Bearer x"}, json=ASKED))[0] == 401
        assert (await ask("/retrieve", shown("ops"), json=ASKED))[0] == 403
        assert (await ask("/retrieve", shown("web"), json=ASKED))[0] == 200
        _, topology = await ask("/api/topology", shown("web"))
        assert topology["indexes"][0]["shards"][0]["replicas"][0]["address"] == ""
        assert cluster.replicas[0].address not in json.dumps(topology)
        _, slow = await ask("/api/slow", shown("web"))
        assert [query["question"] for query in slow["queries"]] == [None]
        _, topology = await ask("/api/topology", shown("both"))
        assert cluster.replicas[0].address in json.dumps(topology)
        _, slow = await ask("/api/slow", shown("both"))
        assert [query["question"] for query in slow["queries"]] == ["a"]
        for path in ("/", "/console/main.js", "/health"):  # hold no secret
            async with client.get(url + path) as answer:
                assert answer.status == 200


async def test_tls_serves_the_certificate_of_the_moment(tmp_path, port_over):
    """As over gRPC: a new one serves the next connection, and a broken one none."""
    ca = trustme.CA()
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def issue() -> None:
        made = ca.issue_cert("127.0.0.1")
        key.write_bytes(made.private_key_pem.bytes())
        certificate.write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))

    issue()
    context = ssl.create_default_context()
    ca.configure_trust(context)

    async def served(url: str) -> bytes:
        host, number = url.removeprefix("https://").split(":")
        _, writer = await asyncio.open_connection(host, int(number), ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.close()
        return shown

    async with (
        running(tmp_path) as cluster,
        port_over(cluster, tls_certificate=certificate, tls_key=key) as url,
    ):
        first = await served(url)
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client,
            client.post(f"{url}/retrieve", json=ASKED, headers={"Origin": url}) as answer,
        ):
            assert answer.status == 200
        key.write_text("no key")
        issue()
        async with asyncio.timeout(60):
            while await served(url) == first:  # noqa: ASYNC110 -- files, looked at once a second
                await asyncio.sleep(0.1)


@pytest.mark.parametrize("with_tls", [False, True])
@pytest.mark.parametrize("with_tokens", [False, True])
async def test_the_doctor_sees_whether_it_wants_a_token(
    tmp_path, port_over, monkeypatch, with_tls, with_tokens
):
    """Fault 53: asked by a name that is not its own, an open port refuses like a closed one."""
    monkeypatch.setattr(doors, "_TIMEOUT_S", 30.0)  # 2 s are for machines with nothing else to do
    settings = {}
    if with_tls:
        made = trustme.CA().issue_cert("127.0.0.1")
        settings["tls_certificate"] = tmp_path / "server.pem"
        settings["tls_key"] = tmp_path / "server.key"
        settings["tls_certificate"].write_bytes(made.cert_chain_pems[0].bytes())
        settings["tls_key"].write_bytes(made.private_key_pem.bytes())
    if with_tokens:
        settings["tokens"] = tmp_path / "tokens.yaml"
        settings["tokens"].write_text(with_entry("", entry_of("a", new_token(), ["search"], None)))
    async with (
        running(tmp_path) as cluster,
        port_over(cluster, **settings) as url,
    ):
        at = Listening(host="127.0.0.1", port=int(url.rpartition(":")[2]))
        door = await asyncio.to_thread(knock, 1, "router", at)
    assert (door.speaks, door.tls, door.asks) == ("http", with_tls, with_tokens)


def test_an_exposed_port_needs_tls_and_tokens_or_a_word(tmp_path):
    """The HTTP port has an address of its own, and the same rule for it."""
    topology = tmp_path / "topology.json"
    exposed = {"topology": topology, "http_port": 0, "http_host": "0.0.0.0"}
    with pytest.raises(ConfigError, match="insecure"):
        refuse_exposed_http(RouterConfig(**exposed))
    refuse_exposed_http(RouterConfig(**exposed, insecure=True))
    refuse_exposed_http(RouterConfig(topology=topology, http_host="0.0.0.0"))  # it doesn't listen
    refuse_exposed_http(RouterConfig(topology=topology, http_port=0))


async def test_a_taken_port_is_one_line(tmp_path, port_over):
    """Naming the flag."""
    async with running(tmp_path) as cluster, port_over(cluster) as url:
        taken = int(url.rpartition(":")[2])
        with pytest.raises(StorageError, match="--http-port"):
            async with port_over(cluster, http_port=taken):
                pass
