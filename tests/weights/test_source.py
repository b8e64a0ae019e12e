"""The sources as the agent on the host uses them: bytes from the middle, authorisation for its own host alone."""

from __future__ import annotations

import ast
import calendar
import hashlib
import os
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from metalserve.paths import ROOT
from metalserve.weights.agent.config import Job, SourceConfig, WantedFile
from metalserve.weights.agent.sigv4 import Keys, parse_keys, signed
from metalserve.weights.agent.source import Source, source_of
from metalserve.weights.agent.web import SourceError, same_origin, shown
from tests.weights.standins.hub import Hub, serving_hub
from tests.weights.standins.mirror import Mirror, serving_mirror
from tests.weights.standins.registry import Registry, serving_registry
from tests.weights.standins.s3 import Storage, serving_storage
from tests.weights.standins.web import Answer, Asked, serving

BASIC = "Basic cm9ib3Q6c2VjcmV0"  # robot:secret
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS = os.urandom(100_000)
FILES = {"config.json": b'{"a": 1}', "model.safetensors": WEIGHTS, "sub dir/ü & #?%.json": b"odd name"}


def wanted(path: str, content: bytes | None = None) -> WantedFile:
    body = FILES[path] if content is None else content
    return WantedFile(path, len(body), hashlib.sha256(body).hexdigest())


def read(source: Source, file: WantedFile, start: int = 0, end: int | None = None) -> bytes:
    with source.open(file, start, end) as opened:
        assert opened.start == start
        return opened.stream.read()


@contextmanager
def every_kind(kind: str, tmp_path: Path) -> Iterator[Source]:
    """A source of each kind with FILES, with the secret that it wants."""
    if kind == "hub":
        with serving_hub(Hub("org/model", {COMMIT: FILES}, {}, token="hf_secret")) as hub:
            yield Source(SourceConfig("hub", f"{hub.url}/org/model/resolve/{COMMIT}"), "hf_secret\n")
            assert all(not each.header("authorization") for each in hub.cdn.asked)
            assert hub.cdn.asked
    elif kind == "http":
        with serving_mirror(Mirror(FILES, secret="Basic dXNlcjpwYXNz")) as mirror:
            yield Source(SourceConfig("http", mirror.base), "user:pass")
    elif kind == "s3":
        storage = Storage({f"some/prefix/{path}": body for path, body in FILES.items()}, token="session/token+")
        with serving_storage(storage):
            config = SourceConfig("s3", f"{storage.web.url}/models/some/prefix", storage.region)
            yield Source(config, f"{storage.access}:{storage.secret}:{storage.token}")
    elif kind == "oci":
        with serving_registry(Registry()) as registry:
            registry.push("v1", FILES)
            yield Source(SourceConfig("oci", f"{registry.web.url}/v2/org/model"), registry.login)
            given = [each for each in registry.auth.asked if each.header("authorization") == BASIC]
            assert len(given) == 1, "a token serves for many files"
            assert all(not each.header("authorization") for each in registry.storage.asked)
    else:
        for path, body in FILES.items():
            (tmp_path / path).parent.mkdir(exist_ok=True)
            (tmp_path / path).write_bytes(body)
        yield Source(SourceConfig("directory", str(tmp_path)))


@pytest.mark.parametrize("kind", ["hub", "http", "s3", "oci", "directory"])
def test_whole_files_and_from_the_middle(kind: str, tmp_path: Path) -> None:
    with every_kind(kind, tmp_path) as source:
        for path, body in FILES.items():
            assert read(source, wanted(path)) == body
        assert read(source, wanted("model.safetensors"), 99_999) == WEIGHTS[99_999:]
        if kind != "directory":
            assert read(source, wanted("model.safetensors"), 10, 20) == WEIGHTS[10:20]
            assert read(source, wanted("model.safetensors"), 0, 20) == WEIGHTS[:20]


@pytest.mark.parametrize("kind", ["hub", "http", "s3", "oci", "directory"])
def test_what_is_gone_is_said_and_not_asked_for_again(kind: str, tmp_path: Path) -> None:
    with every_kind(kind, tmp_path) as source:
        read(source, wanted("model.safetensors"))
        with pytest.raises(SourceError) as caught:
            source.open(wanted("gone.json", b"never there"))
        assert caught.value.permanent
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["hub", "http", "s3", "directory"])
def test_another_size_than_the_manifest_says(kind: str, tmp_path: Path) -> None:
    with every_kind(kind, tmp_path) as source:
        read(source, wanted("model.safetensors"))
        for start in (0, 5):
            with pytest.raises(SourceError, match="has 8 bytes at the source instead of 9") as caught:
                source.open(WantedFile("config.json", 9, "0" * 64), start)
            assert caught.value.permanent


SECRETS = {"hub": "hf_wrong", "http": "user:wrong", "s3": "AKIDEXAMPLE:wrong", "oci": "robot:wrong"}


@pytest.mark.parametrize("kind", list(SECRETS))
def test_a_wrong_secret_names_the_setting_and_not_the_secret(kind: str, tmp_path: Path) -> None:
    with every_kind(kind, tmp_path) as right:
        if kind in ("hub", "oci"):
            read(right, wanted("model.safetensors"))
        for secret in (SECRETS[kind], ""):
            with pytest.raises(SourceError, match=r"HTTP 40[13]\).* -> set model\.hf_token") as caught:
                Source(right._config, secret).open(wanted("config.json"))
            assert caught.value.permanent
            assert "wrong" not in str(caught.value)


def test_a_secret_of_another_form_is_refused_without_being_shown() -> None:
    with pytest.raises(SourceError, match="must be ACCESS:SECRET") as caught:
        Source(SourceConfig("s3", "https://x/b"), "AKIDONLY")
    assert "AKIDONLY" not in str(caught.value)
    with pytest.raises(SourceError, match="is no kind of source"):
        Source(SourceConfig("ftp", "ftp://x"))


def test_no_secret_follows_a_redirect_to_another_host() -> None:
    with serving_mirror(Mirror(FILES)) as other, serving_mirror(Mirror({}, redirect=other.web.url)) as first:
        source = Source(SourceConfig("http", first.base), "token-of-the-first")
        assert read(source, wanted("model.safetensors"), 7) == WEIGHTS[7:]
        assert first.web.asked[0].header("authorization") == "Bearer token-of-the-first"
        assert other.web.asked[0].header("authorization") == ""
        assert other.web.asked[0].header("range") == "bytes=7-"


def test_a_secret_stays_through_a_redirect_within_the_host() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.header("authorization") != "Bearer t":
            return Answer(401)
        return Answer(308, b"", {"Location": "/new/f"}) if asked.path == "/old/f" else Answer(200, b"content")

    with serving(answer) as web:
        source = Source(SourceConfig("http", f"{web.url}/old"), "t")
        assert read(source, wanted("f", b"content")) == b"content"
        with source.fetch(f"{web.url}/old/f", method="HEAD") as found:
            assert found.status == 200
        assert [each.method for each in web.asked] == ["GET", "GET", "HEAD", "HEAD"]


@pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://host/f", "gopher://host"])
def test_redirects_leave_http_for_nothing(location: str) -> None:
    answer = Answer(302, b"", {"Location": location})
    with serving(lambda _: answer) as web, pytest.raises(SourceError, match="redirects to where") as caught:
        Source(SourceConfig("http", web.url)).open(wanted("config.json"))
    assert caught.value.permanent


def test_a_loop_of_redirects_ends() -> None:
    with serving(lambda _: Answer(302, b"", {"Location": "/again"})) as web:
        with pytest.raises(SourceError):
            Source(SourceConfig("http", web.url)).open(wanted("config.json"))
        assert len(web.asked) < 20


def test_a_source_without_ranges_begins_at_the_beginning() -> None:
    with serving_mirror(Mirror(FILES, ranges=False)) as mirror:
        opened = Source(SourceConfig("http", mirror.base)).open(wanted("model.safetensors"), 500)
        with opened:
            assert opened.start == 0
            assert opened.stream.read() == WEIGHTS


def test_answers_that_cannot_be_the_file() -> None:
    cases = {
        "another range": Answer(206, b"x", {"Content-Range": "bytes 3-3/100000"}),
        "compressed": Answer(200, b"x" * 100_000, {"Content-Encoding": "gzip"}),
        "HTTP 204": Answer(204),
    }
    for words, answer in cases.items():
        with serving(lambda _, answer=answer: answer) as web, pytest.raises(SourceError, match=words):
            Source(SourceConfig("http", web.url)).open(wanted("model.safetensors"), 5)


@pytest.mark.parametrize(
    ("status", "permanent"), [(500, False), (503, False), (429, False), (408, False), (404, True), (400, True)]
)
def test_which_failures_are_worth_another_try(status: int, permanent: bool) -> None:
    with serving(lambda _: Answer(status, b"", {"Retry-After": "7"})) as web, pytest.raises(SourceError) as caught:
        Source(SourceConfig("http", web.url)).open(wanted("config.json"))
    assert caught.value.permanent is permanent
    assert caught.value.status == status
    if status in (429, 503):
        assert caught.value.retry_after_s == 7.0


def test_a_signed_address_that_ran_out_is_worth_another_try_and_is_not_shown() -> None:
    with serving(lambda _: Answer(403)) as cdn:
        where = {"Location": f"{cdn.url}/f?Signature=secret"}
        with serving(lambda _: Answer(302, b"", where)) as hub, pytest.raises(SourceError) as caught:
            Source(SourceConfig("hub", hub.url), "t").open(wanted("config.json"))
    assert not caught.value.permanent
    assert "Signature" not in str(caught.value)


def test_a_source_that_does_not_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    with pytest.raises(SourceError, match=r"no answer: .*refused") as caught:
        Source(SourceConfig("http", f"http://127.0.0.1:{port}")).open(wanted("config.json"))
    assert not caught.value.permanent


def test_a_source_that_hangs_is_given_up() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        base = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(SourceError, match="no answer: timed out"):
            Source(SourceConfig("http", base), timeout_s=0.2).open(wanted("config.json"))


# S3


def test_signatures_are_those_that_aws_published() -> None:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html, "Examples", and of AWS's
    # signature version 4 test suite "get-vanilla"
    keys = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
    host = "https://examplebucket.s3.amazonaws.com"
    at = calendar.timegm((2013, 5, 24, 0, 0, 0))
    for url, headers, signature in (
        ("/test.txt", {"Range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("/?lifecycle", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/?max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ):
        made = signed("GET", host + url, headers, keys, region="us-east-1", unix_time=at)
        assert made["Authorization"].endswith(f"Signature={signature}")
    suite = Keys("AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY")
    at = calendar.timegm((2015, 8, 30, 12, 36, 0))
    url = "https://example.amazonaws.com/"
    made = signed("GET", url, {}, suite, region="us-east-1", unix_time=at, service="service")
    assert made["Authorization"].endswith("5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31")


def test_keys_are_not_in_their_representation() -> None:
    assert "s3cret" not in repr(parse_keys("A:s3cret:tok"))
    assert parse_keys("A:b:c:d").token == "c:d"


@pytest.mark.parametrize("ahead_s", [-86400 * 365, 3600])
def test_a_wrong_clock_does_not_matter(ahead_s: float) -> None:
    storage = Storage({"m/f": b"content"}, clock_s=ahead_s)
    with serving_storage(storage):
        config = SourceConfig("s3", f"{storage.web.url}/models/m", storage.region)
        source = Source(config, f"{storage.access}:{storage.secret}")
        for _ in range(2):
            assert read(source, wanted("f", b"content")) == b"content"
        assert len(storage.web.asked) == 3, "the difference is learnt once"


def test_a_bucket_of_another_region_is_said() -> None:
    storage = Storage({"m/f": b"content"})
    with serving_storage(storage), pytest.raises(SourceError, match=r"eu-central-1 -> set staging\.region"):
        config = SourceConfig("s3", f"{storage.web.url}/models/m")
        Source(config, f"{storage.access}:{storage.secret}").open(wanted("f", b"content"))


def test_a_signed_request_is_not_redirected() -> None:
    answer = Answer(307, b"<Error/>", {"Location": "http://127.0.0.1:1/", "x-amz-bucket-region": "us-west-2"})
    with serving(lambda _: answer) as web, pytest.raises(SourceError, match="another region, us-west-2"):
        Source(SourceConfig("s3", f"{web.url}/b"), "A:s").open(wanted("f", b"content"))


# OCI


def test_a_token_that_ran_out_is_fetched_anew() -> None:
    with serving_registry(Registry(life=2)) as registry:
        registry.push("v1", FILES)
        source = Source(SourceConfig("oci", f"{registry.web.url}/v2/org/model"), registry.login)
        for _ in range(5):
            assert read(source, wanted("config.json")) == FILES["config.json"]
        assert len(registry.auth.asked) == 3


def test_a_registry_that_anybody_may_pull_from() -> None:
    with serving_registry(Registry(login="")) as registry:
        registry.push("v1", FILES)
        assert read(Source(SourceConfig("oci", f"{registry.web.url}/v2/org/model")), wanted("config.json"))


def test_a_ready_token_is_sent_as_it_is() -> None:
    with serving_registry(Registry(tokens={"ready": 9})) as registry:
        registry.push("v1", FILES)
        config = SourceConfig("oci", f"{registry.web.url}/v2/org/model")
        assert read(Source(config, "ready"), wanted("config.json")) == FILES["config.json"]
        with pytest.raises(SourceError, match="HTTP 401"):
            Source(config, "other").open(wanted("config.json"))
        assert registry.auth.asked == []


def test_a_registry_that_never_has_enough() -> None:
    with serving_registry(Registry(life=0)) as registry, pytest.raises(SourceError, match="it gave itself"):
        Source(SourceConfig("oci", f"{registry.web.url}/v2/org/model"), registry.login).open(wanted("config.json"))


# connections


def test_one_connection_serves_for_many_files() -> None:
    with serving_mirror(Mirror(FILES)) as mirror:
        source = Source(SourceConfig("http", mirror.base))
        for _ in range(20):
            for path, body in FILES.items():
                assert read(source, wanted(path)) == body
        with source.fetch(f"{mirror.base}/config.json", method="HEAD") as answer:
            assert answer.headers["Content-Length"] == "8"
        with pytest.raises(SourceError, match="404"):
            source.open(wanted("gone", b"gone"))
        assert read(source, wanted("model.safetensors"), 5, 9) == WEIGHTS[5:9]
        assert mirror.web.connections == 1


def test_a_connection_that_the_server_closed_is_made_again() -> None:
    mirror = Mirror(FILES)
    mirror.web.rude = True
    with serving_mirror(mirror):
        source = Source(SourceConfig("http", mirror.base))
        for _ in range(5):
            assert read(source, wanted("config.json")) == FILES["config.json"]
            time.sleep(0.01)
        assert mirror.web.connections == 5


def test_what_is_left_of_one_answer_is_not_the_next() -> None:
    mirror = Mirror(FILES, cut={"model.safetensors": [10, 50_000]})
    with serving_mirror(mirror):
        source = Source(SourceConfig("http", mirror.base))
        with source.open(wanted("model.safetensors")) as opened:  # cut off by the server
            assert len(opened.stream.read(20)) == 10
        with source.open(wanted("model.safetensors")) as opened:
            assert opened.stream.readinto(bytearray(100_000)) == 50_000
        with source.open(wanted("model.safetensors")) as opened:  # given up by the reader
            assert opened.stream.read(100) == WEIGHTS[:100]
        assert read(source, wanted("config.json")) == FILES["config.json"]
        assert mirror.web.connections == 4


def test_many_threads_at_once() -> None:
    files = {f"{i:03}.json": os.urandom(1000 + i) for i in range(200)}
    with serving_mirror(Mirror(files)) as mirror, ThreadPoolExecutor(8) as pool:
        source = Source(SourceConfig("http", mirror.base))
        bodies = list(pool.map(lambda path: read(source, wanted(path, files[path])), files))
        assert bodies == list(files.values())
        assert mirror.web.connections <= 16


# what the host's Python must be able to read


def test_pipes_and_directories_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "directory").mkdir()
    for name in ("pipe", "directory"):
        with pytest.raises(SourceError):
            Source(SourceConfig("directory", str(tmp_path))).open(WantedFile(name, 0, "0" * 64))


def test_a_jobs_secret_that_is_gone_is_none_and_one_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    def job(authorisation: str) -> Job:
        return Job("k", "org/model", COMMIT, "/store", (), SourceConfig("http", "http://x"), authorisation)

    (tmp_path / "secret").write_text("robot:secret\n")
    request = source_of(job(str(tmp_path / "secret"))).request(wanted("config.json"))
    assert request.get_header("Authorization") == BASIC
    for none in ("", str(tmp_path / "gone")):
        assert source_of(job(none)).request(wanted("config.json")).get_header("Authorization") is None
    with pytest.raises(SourceError, match=r"cannot be read: .* -> run the weights role again") as caught:
        source_of(job(str(tmp_path)))
    assert caught.value.permanent and caught.value.what.startswith(f"{tmp_path}: ")


def test_origins() -> None:
    assert same_origin("https://Host/a", "https://host:443/b")
    assert not same_origin("https://host/a", "http://host/a")
    assert not same_origin("https://host/a", "https://host.evil/a")
    assert shown("https://user:pass@host/a?Signature=x") == "https://host/a"


@pytest.mark.parametrize("name", ["source.py", "sigv4.py", "web.py", "connections.py"])
def test_python_of_older_hosts_reads_it(name: str) -> None:
    text = (ROOT / "metalserve/weights/agent" / name).read_text()
    tree = ast.parse(text, feature_version=(3, 9))
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Match)]


def test_time_is_asked_for_each_request() -> None:
    source = Source(SourceConfig("s3", "https://x/b"), "A:s")
    first = source.request(wanted("config.json")).get_header("X-amz-date")
    assert first is not None
    assert abs(calendar.timegm(time.strptime(first, "%Y%m%dT%H%M%SZ")) - time.time()) < 5
