from __future__ import annotations

from collections.abc import Iterator

import pytest
from fake import KEY, FakeGateway


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGateway]:
    """A fake gateway, which the environment names."""
    fake = FakeGateway()
    monkeypatch.setenv("BELLJAR_URL", fake.url)
    monkeypatch.setenv("BELLJAR_API_KEY", KEY)
    # Waiting is tested in test_pure.py; here it would only take time.
    monkeypatch.setattr("belljar._retry.FIRST_DELAY", 0.001)
    yield fake
    fake.close()
