import pytest


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch):
    """Keep this machine's own data and proxies out of the tests."""
    monkeypatch.delenv("VQNMT_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
