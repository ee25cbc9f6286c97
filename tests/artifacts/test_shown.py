"""Keys, passwords and signatures in a URL are said nowhere: neither by us nor in our words."""

from __future__ import annotations

from pathlib import Path

import pytest

from deconstruct.artifacts import DataRoot
from deconstruct.artifacts.objects import cause, reason, shown
from deconstruct.common.errors import StorageError
from deconstruct.store import open_store

SECRET = "S3CR3T"
NOWHERE = "endpoint_override=127.0.0.1:9&scheme=http"
URLS = (
    f"s3://AK:x/{SECRET}@bucket/data",
    f"s3://AK:x@{SECRET}@bucket/data",
    f"s3://AK:x?{SECRET}@bucket/data",
    f"s3://AK:x+{SECRET}/=@bucket/data?{NOWHERE}",
    f"s3://AK:{SECRET}%zz@bucket/data",
    f"s3://AK:{SECRET}@bu cket/data",
    f"s3://bucket/data?secret_key={SECRET}&{NOWHERE}",
    f"gs://bucket/data?token={SECRET}",
    f"ftp://user:x@{SECRET}@127.0.0.1:9/data",
    f"http://user:{SECRET}@127.0.0.1:9/data",
    f"https://127.0.0.1:9/data?X-Amz-Signature={SECRET}&a=b",
    f"simplecache::http://user:{SECRET}@127.0.0.1:9/data",
    f"nonsense://user:{SECRET}@host/data",
)


@pytest.mark.parametrize("url", URLS)
def test_a_remote_or_home_out_of_reach_is_said_without_its_secret(url: str, tmp_path: Path) -> None:
    assert SECRET not in shown(url)
    for attempt in (
        DataRoot(tmp_path, url).mirror.check,
        lambda: open_store(url, files=False),
    ):
        with pytest.raises(StorageError) as raised:
            attempt()
        said = raised.value
        assert SECRET not in str(said)
        assert said.__cause__ is None or SECRET not in str(said.__cause__)
        assert said.__suppress_context__


def test_what_says_nothing_secret_is_shown_as_it_is() -> None:
    for url in (
        "s3://bucket/data",
        f"s3://bucket/data?{NOWHERE}&region=eu-1",
        "s3://bucket/team@place/data",
        "file:///home/me@work/data",
        "memory://data",
    ):
        assert shown(url) == url
    error = OSError("no such bucket")
    assert cause(URLS[0], error) is error
    assert reason(URLS[0], error) == "no such bucket"


def test_a_secret_is_hidden_as_a_server_decodes_it() -> None:
    url = "https://127.0.0.1/data?sig=a%2Fbcd%3D"
    error = OSError("403 for a/bcd= at https://127.0.0.1/other?sig=a%2Fbcd%3D")
    assert reason(url, error) == "403 for *** at https://127.0.0.1/other?sig=***"
    assert cause(url, error) is None
