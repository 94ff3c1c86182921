from __future__ import annotations

import pytest
from fake import KEY, FakeGateway, Fault

from belljar import (
    AtCapacity,
    AuthError,
    Client,
    ConnectionFailed,
    InvalidRequest,
    NotFound,
    RateLimited,
    Sandbox,
    ServerError,
    UnexpectedAnswer,
)


async def test_a_sandbox_lives_as_long_as_its_block(gateway: FakeGateway) -> None:
    async with Sandbox.create(template="python") as sb:
        assert list(gateway.sandboxes) == [sb.id]
        assert (await sb.info()).template == "python"
    assert not gateway.sandboxes


async def test_it_may_be_awaited_before_it_is_entered(gateway: FakeGateway) -> None:
    async with await Sandbox.create(template="python") as sb:
        assert sb.id in gateway.sandboxes
    assert not gateway.sandboxes


async def test_it_is_killed_though_the_block_fails(gateway: FakeGateway) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Sandbox.create():
            raise ZeroDivisionError
    assert not gateway.sandboxes


async def test_the_first_error_is_the_one_that_is_heard(gateway: FakeGateway) -> None:
    with pytest.raises(ZeroDivisionError):
        async with Sandbox.create():
            gateway.faults.extend([Fault(500)])
            raise ZeroDivisionError


async def test_every_option_reaches_the_gateway(gateway: FakeGateway) -> None:
    sb = await Sandbox.create(
        image="debian",
        timeout=60,
        env={"A": "1"},
        metadata={"user": "ann"},
        cpus=2,
        memory="512Mi",
        cwd="/tmp",
    )
    [seen] = gateway.requests("POST", "/sandboxes")
    assert seen.json == {
        "image": "debian",
        "timeout": 60,
        "env": {"A": "1"},
        "metadata": {"user": "ann"},
        "cpus": 2,
        "memory": "512Mi",
        "cwd": "/tmp",
    }
    assert seen.headers["Authorization"] == f"Bearer {KEY}"
    info = await sb.info()
    assert info.metadata == {"user": "ann"}
    assert info.created_at is not None
    assert info.created_at.microsecond == 123456
    await sb.close()


async def test_connect_finds_it_and_leaves_it_running(gateway: FakeGateway) -> None:
    made = await Sandbox.create(memory=256)
    async with Sandbox.connect(made.id) as sb:
        assert sb.id == made.id
        assert (await sb.info()).memory_mb == 256
    assert made.id in gateway.sandboxes
    await made.kill()
    await made.kill()
    with pytest.raises(NotFound) as caught:
        await Sandbox.connect(made.id)
    assert caught.value.code == "sandbox_not_found"
    await made.close()


async def test_list_follows_the_pages_but_never_to_another_host(gateway: FakeGateway) -> None:
    async with Client() as client:
        made = [await Sandbox.create(metadata={"n": str(n % 2)}, client=client) for n in range(5)]
        assert [info.id for info in await Sandbox.list(client=client)] == [sb.id for sb in made]
        assert len(await Sandbox.list(metadata={"n": "1"}, client=client)) == 2
        assert len(await Sandbox.list(limit=3, client=client)) == 3
    assert len(await Sandbox.list(template="base")) == 5


async def test_timeout_stats_stop_and_restart(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        await sb.set_timeout(900)
        assert (await sb.info()).timeout == 900
        stats = await sb.stats()
        assert (stats.cpu_ms, stats.memory_bytes, stats.home_used) == (12, 1 << 20, None)
        assert (await sb.stop()).status == "stopped"
        assert (await sb.restart()).status == "running"


async def test_templates(gateway: FakeGateway) -> None:
    async with Client() as client:
        assert [template.name for template in await client.templates.list()] == ["base"]
        assert (await client.templates.get("base")).image == "belljar-sandbox:latest"
        assert (await client.templates.build("mine", "FROM scratch")).status == "ready"
        await client.templates.delete("mine")
        with pytest.raises(NotFound):
            await client.templates.get("a/b")
    assert gateway.seen[-1].path.endswith("/templates/a/b")


async def test_ports_are_addresses(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        place = f"/api/v1/sandboxes/{sb.id}/ports/8000"
        assert sb.ports.url(8000) == f"{gateway.url}{place}/"
        assert sb.ports.url(8000, "a b?c=1") == f"{gateway.url}{place}/a%20b?c=1"
        assert sb.ports.websocket_url(8000, "/ws") == f"{gateway.url.replace('http', 'ws', 1)}{place}/ws"
        assert sb.ports.headers == {"Authorization": f"Bearer {KEY}"}
        with pytest.raises(ValueError, match="port"):
            sb.ports.url(0)


async def test_an_order_that_is_refused_names_the_field(gateway: FakeGateway) -> None:
    with pytest.raises(InvalidRequest, match="template") as caught:
        await Sandbox.create(template="nothing")
    assert caught.value.code == "no_such_template"
    assert len(gateway.seen) == 1


async def test_no_key_and_the_wrong_one(gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    async with Client(api_key="wrong") as client:
        with pytest.raises(AuthError) as caught:
            await Sandbox.list(client=client)
        assert caught.value.status == 403
    monkeypatch.delenv("BELLJAR_API_KEY")
    with pytest.raises(AuthError) as caught:
        await Sandbox.list()
    assert caught.value.status == 401


async def test_a_create_that_is_repeated_makes_one_sandbox(gateway: FakeGateway) -> None:
    # Refused, broken before it was read, and broken after the sandbox was started.
    gateway.faults += [Fault(503, headers={"Retry-After": "0"}), Fault(drop="before"), Fault(drop="after")]
    sb = await Sandbox.create()
    seen = gateway.requests("POST")
    assert len(seen) == 4
    assert len({request.headers["Idempotency-Key"] for request in seen}) == 1
    assert list(gateway.sandboxes) == [sb.id]
    await sb.close()


async def test_retries_end(gateway: FakeGateway) -> None:
    gateway.faults += [Fault(503, b'{"error":"at_capacity","message":"Every place is taken."}')] * 9
    with pytest.raises(AtCapacity, match="Every place"):
        await Sandbox.create()
    assert len(gateway.seen) == 4
    async with Client(retries=0) as client:
        with pytest.raises(AtCapacity):
            await Sandbox.create(client=client)
    assert len(gateway.seen) == 5


async def test_a_longer_wait_than_is_bearable_is_told_at_once(gateway: FakeGateway) -> None:
    gateway.faults += [Fault(429, b'{"error":"rate_limited"}', headers={"Retry-After": "3600"})]
    with pytest.raises(RateLimited) as caught:
        await Sandbox.list()
    assert caught.value.retry_after == 3600
    assert len(gateway.seen) == 1


async def test_what_may_not_be_repeated_is_not(gateway: FakeGateway) -> None:
    async with Sandbox.create() as sb:
        for fault in (Fault(503), Fault(429), Fault(drop="after")):
            before = len(gateway.seen)
            gateway.faults += [fault]
            with pytest.raises((ServerError, RateLimited, ConnectionFailed)):
                await sb.commands.run("echo once")
            assert len(gateway.seen) == before + 1


async def test_a_proxys_page_is_an_error_by_its_status(gateway: FakeGateway) -> None:
    gateway.faults += [Fault(502, b"<html>Bad Gateway</html>", {"Content-Type": "text/html"})]
    with pytest.raises(ServerError, match="502"):
        await Sandbox.list()
    for body in (b"<html>welcome</html>", b"", b"{}", b"[1]", b'[{"id": 7}]'):
        gateway.faults += [Fault(200, body)]
        with pytest.raises(UnexpectedAnswer):
            await Sandbox.list()


async def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("belljar._retry.FIRST_DELAY", 0.001)
    async with Client("http://127.0.0.1:1", retries=1) as client:
        with pytest.raises(ConnectionFailed):
            await Sandbox.list(client=client)
