"""A local server plays what goes wrong on the way of a file: the right file arrives, or none and a clear message."""

import errno
import gzip
import hashlib
import http.server
import io
import os
import re
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from test_data_files import write_cifar

from minidl import data
from minidl.data import download
from minidl.data.download import RemoteFile, fetch
from minidl.data.fileset import FileSet
from minidl.data.lock import locked
from minidl.data.sets import cifar10

CONTENT = gzip.compress(np.random.default_rng(0).bytes(400_000), mtime=0)
PACKAGE = Path(data.__file__).resolve().parents[2]


class Handler(http.server.BaseHTTPRequestHandler):
    """``/BEHAVIOUR/name``: serves the server's content, well or badly."""

    def do_GET(self):
        behaviour = self.path.split("/")[1]
        self.server.seen.append((behaviour, self.headers.get("Range")))
        getattr(self, behaviour)(self.server.content)

    def good(self, content):
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        if start >= len(content):
            self.send_error(416)
            return
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start:], len(content) - start, headers)

    def whole(self, content):  # a server that cannot resume
        self.answer(200, content, len(content))

    def piecemeal(self, content):  # in pieces that fit no block
        self.answer(200, b"", len(content))
        for start in range(0, len(content), 50_000):
            self.wfile.write(content[start : start + 50_000])
            time.sleep(0.01)

    def missing(self, content):
        self.send_error(404)

    def overloaded(self, content):
        self.send_error(503)

    def once_overloaded(self, content):
        first = sum(behaviour == "once_overloaded" for behaviour, _ in self.server.seen) == 1
        (self.overloaded if first else self.good)(content)

    def truncated(self, content):  # ends early each time, and resumes
        start = int(re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])
        headers = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self.answer(206 if start else 200, content[start : start + 150_000], len(content) - start, headers)

    def always_truncated(self, content):
        self.answer(200, content[:1000], len(content))

    def page(self, content):
        self.answer(200, b"<html>Please log in</html>", None, {"Content-Type": "text/html"})

    def disguised_page(self, content):  # the right length and type, and still a page
        self.answer(200, b"<html>" + b" " * (len(content) - 6), len(content))

    def astray(self, content):  # sends elsewhere, to what is no address
        self.send_response(302)
        self.send_header("Location", "http://[::1/file.gz")
        self.end_headers()

    def rubbish(self, content):  # no HTTP at all
        self.wfile.write(b"\x1b[2J\x00\xff" * 1000)

    def wrong(self, content):
        self.answer(200, content[:-1] + bytes([content[-1] ^ 1]), len(content))

    def longer(self, content):
        self.answer(200, content + b"more", None)

    def other_size(self, content):
        self.answer(200, content[:-5], len(content) - 5)

    def hang(self, content):
        self.answer(200, content[:70_000], len(content))
        self.server.released.wait(20)

    def drip(self, content):  # never silent, never done
        self.answer(200, b"", len(content))
        while not self.server.released.wait(0.05):
            try:
                self.wfile.write(b"\x1f")
            except OSError:
                return

    def answer(self, status, body, length, headers=None):
        self.send_response(status)
        for name, value in {"Content-Type": "application/x-gzip", **(headers or {})}.items():
            self.send_header(name, value)
        if length is not None:
            self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.daemon_threads = True
        httpd.content, httpd.seen, httpd.released = CONTENT, [], threading.Event()
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield httpd
        httpd.released.set()
        httpd.shutdown()


def remote(server, *behaviours, content=CONTENT, name="file.gz"):
    mirrors = tuple(f"http://127.0.0.1:{server.server_address[1]}/{behaviour}/" for behaviour in behaviours)
    md5, sha256 = hashlib.md5(content).hexdigest(), hashlib.sha256(content).hexdigest()
    return RemoteFile(name, len(content), md5, sha256, mirrors)


def get(server, folder, *behaviours):
    return fetch(remote(server, *behaviours), folder, timeout=0.5, pauses=(0, 0, 0))


def refused(server, folder, message, *behaviours):
    """The download fails with ``message``, and nothing in the folder passes for the file."""
    with pytest.raises(data.DataError, match=message):
        get(server, folder, *behaviours)
    assert not (folder / "file.gz").exists()


def test_a_download_arrives_and_is_not_repeated(server, tmp_path):
    for _ in range(2):
        assert get(server, tmp_path / "new" / "folder", "good").read_bytes() == CONTENT
    assert len(server.seen) == 1
    assert sorted(path.name for path in (tmp_path / "new" / "folder").iterdir()) == ["file.gz", "file.gz.lock"]


@pytest.mark.parametrize(
    "bad",
    "missing overloaded page disguised_page astray rubbish wrong longer other_size hang always_truncated".split(),
)
def test_after_any_failure_the_next_mirror_delivers(bad, server, tmp_path):
    assert get(server, tmp_path, bad, "good").read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("bad", "message", "requests"),
    [
        ("missing", "HTTP 404", 1),
        ("overloaded", "HTTP 503", 3),
        ("page", "web page instead of the file", 1),
        ("disguised_page", r"web page instead of the file \(MD5 is", 1),
        ("astray", r"the connection broke \(Invalid IPv6 URL\)", 3),
        ("rubbish", r"the connection broke \([ -~ÿ]{100}…\)", 3),
        ("wrong", f"MD5 is [0-9a-f]+, expected {hashlib.md5(CONTENT).hexdigest()}", 1),
        ("longer", f"sends more than the expected {len(CONTENT)} bytes", 1),
        ("other_size", f"announces {len(CONTENT) - 5} bytes, expected {len(CONTENT)}", 1),
        ("hang", "timed out", 3),
        ("drip", "too slow", 3),
        ("always_truncated", f"connection ended after 1000 of {len(CONTENT)} bytes", 3),
    ],
)
def test_each_failure_is_told_and_only_passing_ones_are_tried_again(bad, message, requests, server, tmp_path):
    refused(server, tmp_path, f"file.gz .*could not be downloaded:\n  http://127.0.0.1:.*{message}", bad)
    assert len(server.seen) == requests


def test_a_server_that_was_busy_once_is_asked_again(server, tmp_path):
    assert get(server, tmp_path, "once_overloaded").read_bytes() == CONTENT


def test_a_truncated_body_is_resumed_where_it_ended(server, tmp_path):
    assert get(server, tmp_path, "truncated").read_bytes() == CONTENT
    assert [start for _, start in server.seen] == [None, "bytes=150000-", "bytes=300000-"]


def test_an_earlier_attempt_is_resumed_past_a_mirror_that_is_gone(server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:123_456])
    assert get(server, tmp_path, "missing", "good").read_bytes() == CONTENT
    assert server.seen[-1] == ("good", "bytes=123456-")


def test_a_server_that_cannot_resume_sends_everything_again(server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:100_000])
    assert get(server, tmp_path, "whole").read_bytes() == CONTENT


@pytest.mark.parametrize("beginning", [b"rubbish", CONTENT + b"too long", b"x" * len(CONTENT)])
def test_a_wrong_beginning_is_thrown_away_and_the_file_fetched_afresh(beginning, server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(beginning)
    assert get(server, tmp_path, "good").read_bytes() == CONTENT


def test_the_progress_bar_comes_to_its_end(server, tmp_path, monkeypatch):
    told = []

    def bar(blocks, total, label):
        for block in blocks:
            told.append(len(block))
            yield block
        assert len(told) == total

    monkeypatch.setattr(download, "progress", bar)
    get(server, tmp_path, "piecemeal")
    assert sum(told) == len(CONTENT)


def test_a_complete_part_needs_no_network(server, tmp_path):
    (tmp_path / "file.gz.part").write_bytes(CONTENT)
    assert get(server, tmp_path, "missing").read_bytes() == CONTENT
    assert server.seen == []


def test_a_wrong_file_already_there_is_named_and_not_overwritten(server, tmp_path):
    (tmp_path / "file.gz").write_bytes(b"mine")
    with pytest.raises(data.DataError, match=r"file\.gz: 4 bytes, expected \d+. Delete it"):
        get(server, tmp_path, "good")
    assert (tmp_path / "file.gz").read_bytes() == b"mine"


def test_without_network_each_mirror_says_so(tmp_path):
    file = RemoteFile("file.gz", 10, "", "", ("http://minidl.invalid/", "http://127.0.0.1:9/"))
    with pytest.raises(data.DataError, match=r"(?s)minidl\.invalid.*not reached.*127\.0\.0\.1:9.*not reached"):
        fetch(file, tmp_path, timeout=1, pauses=(0,))


def test_the_offline_message_names_the_files_to_place_by_hand(server, tmp_path, monkeypatch):
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(download, "PAUSES", (0,))
    files = (remote(server, "missing"), remote(server, "missing", name="other.gz"))
    fileset = FileSet("pets", ("pets",), lambda folder: False, lambda folder: iter(()), downloads=files)
    with pytest.raises(
        data.DataError, match=r"(?s)pets: .*No network here\? Place by hand in .*pets: file.gz, other.gz"
    ):
        fileset.get(tmp_path)


CLIENT = """
import os, resource, signal, sys, time
from pathlib import Path
from minidl.data.download import RemoteFile, fetch
from minidl.data import DataError
name, size, md5, sha256, mirror, folder, limit = sys.argv[1:]
if int(limit):
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    print(fetch(RemoteFile(name, int(size), md5, sha256, (mirror,)), Path(folder), timeout=20, pauses=(0,)))
except DataError as error:
    print("DataError:", error)
"""


def client(file, folder, limit=0):
    """Another process that fetches ``file``; ``limit``: the largest file it may write, in bytes."""
    arguments = [file.name, str(file.size), file.md5, file.sha256, file.mirrors[0], str(folder), str(limit)]
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(CLIENT), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(PACKAGE)},
    )


def test_a_process_killed_half_way_leaves_a_part_that_the_next_one_resumes(server, tmp_path):
    process = client(remote(server, "hang"), tmp_path)
    part = tmp_path / "file.gz.part"
    deadline = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.communicate()
    held = part.stat().st_size
    assert held and not (tmp_path / "file.gz").exists()
    assert get(server, tmp_path, "good").read_bytes() == CONTENT  # its lock died with it, too
    assert server.seen[-1] == ("good", f"bytes={held}-")


def test_two_processes_at_once_download_once_and_both_get_the_file(server, tmp_path):
    processes = [client(remote(server, "good"), tmp_path) for _ in range(2)]
    answers = [process.communicate(timeout=60)[0].strip() for process in processes]
    assert answers == [str(tmp_path / "file.gz")] * 2
    assert (tmp_path / "file.gz").read_bytes() == CONTENT
    assert len(server.seen) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of a file are a POSIX matter")
def test_a_small_quota_gives_a_clear_error_and_its_space_back(server, tmp_path):
    answer, _ = client(remote(server, "good"), tmp_path, limit=200_000).communicate(timeout=60)
    assert re.match(r"DataError: .*no space left for the download \(File too large\); free some space", answer)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.gz.lock"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_gives_a_clear_error(server, tmp_path):
    (tmp_path / "file.gz.part").symlink_to("/dev/full")
    refused(server, tmp_path, "no space left for the download .*No space left on device", "good")


def test_too_little_free_space_is_seen_before_the_download(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 1000}))
    refused(server, tmp_path, r"no space left for the download \(file.gz needs 0.4 MB, 0.0 MB are free\)", "good")
    assert server.seen == []


def test_what_an_earlier_attempt_left_needs_no_free_space(server, tmp_path, monkeypatch):
    (tmp_path / "file.gz.part").write_bytes(CONTENT[:300_000])
    monkeypatch.setattr(download.shutil, "disk_usage", lambda folder: type("Usage", (), {"free": 150_000}))
    assert get(server, tmp_path, "good").read_bytes() == CONTENT


def test_a_folder_that_cannot_be_written_to_is_named_with_the_cure(server, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(data.DataError, match="cannot be written to .*MINIDL_DATA"):
        get(server, tmp_path / "file" / "below", "good")


def test_a_lock_is_waited_for_and_given_back(tmp_path):
    order = []

    def second():
        with locked(tmp_path / "lock"):
            order.append("second")

    with locked(tmp_path / "lock"):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.2)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


def test_a_lock_that_never_becomes_free_is_an_error(tmp_path):
    message = "another process has held this lock for 0 s"
    with locked(tmp_path / "lock"), pytest.raises(data.DataError, match=message), locked(tmp_path / "lock", patience=0):
        pass


def test_a_disk_that_knows_no_locks_is_told_at_once(server, tmp_path, monkeypatch):
    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("minidl.data.lock._take", refuse)
    refused(server, tmp_path, r"cannot be written to \(No locks available\); pass root=", "good")


def archive(records=2, extra=()):
    """A small archive in the form of CIFAR-10's."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        names = [f"cifar-10-batches-bin/{name}" for name in (*cifar10.TRAIN, cifar10.TEST)]
        for name, content in [*((name, bytes(3073 * records)) for name in names), *extra]:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


@pytest.fixture
def cifar(server, tmp_path, monkeypatch):
    """``cifar(content)``: the server's archive is ``content``, and CIFAR-10 comes from there."""
    monkeypatch.delenv("MINIDL_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def serve(content):
        server.content = content
        file = remote(server, "good", content=content, name=cifar10.ARCHIVE.name)
        object.__setattr__(cifar10.FILES, "downloads", (file,))

    yield serve
    object.__setattr__(cifar10.FILES, "downloads", (cifar10.ARCHIVE,))


def test_the_archive_of_cifar10_is_unpacked_once_and_found_again(cifar, server, tmp_path):
    cifar(archive())
    for _ in range(2):
        assert len(data.load("cifar10", root=tmp_path / "here").train) == 10
    assert len(server.seen) == 1
    left = sorted(path.name for path in (tmp_path / "here" / "cifar-10").iterdir())
    assert left == ["cifar-10-batches-bin", "cifar-10-binary.tar.gz.lock", "cifar10.lock"]


def test_a_set_that_another_process_is_downloading_is_waited_for_and_not_fetched_again(cifar, server, tmp_path):
    cifar(archive())
    folder = tmp_path / "here" / "cifar-10"
    folder.mkdir(parents=True)
    loaded = []
    with locked(folder / "cifar10.lock"):
        thread = threading.Thread(target=lambda: loaded.append(data.load("cifar10", root=tmp_path / "here")))
        thread.start()
        time.sleep(0.2)
        write_cifar(folder / "cifar-10-batches-bin")
    thread.join(10)
    assert len(loaded[0].train) == 20 and server.seen == []


def test_a_folder_unpacked_by_hand_and_not_to_its_end_is_set_aside(cifar, tmp_path):
    cifar(archive())
    folder = tmp_path / "here" / "cifar-10"
    write_cifar(folder / "cifar-10-batches-bin")
    (folder / "cifar-10-batches-bin" / "test_batch.bin").unlink()
    assert len(data.load("cifar10", root=tmp_path / "here").train) == 10
    assert len(list((folder / "cifar-10-batches-bin.incomplete").iterdir())) == 5


def test_a_disk_that_fills_up_while_unpacking_gets_its_space_back(cifar, tmp_path, monkeypatch):
    def full(archive, folder):
        (folder / "data_batch_1.bin").write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    cifar(archive())
    monkeypatch.setattr(cifar10, "_extract", full)
    with pytest.raises(data.DataError, match="no space left for the download"):
        data.load("cifar10", root=tmp_path / "here")
    assert not list(tmp_path.rglob("data_batch_1.bin"))


def test_a_member_that_points_out_of_the_archive_is_not_followed(cifar, tmp_path):
    cifar(archive(extra=[("../../evil.bin", b"evil"), ("/tmp/minidl-evil.bin", b"evil")]))
    data.load("cifar10", root=tmp_path / "here")
    assert not list(tmp_path.rglob("*evil*")) and not Path("/tmp/minidl-evil.bin").exists()


def test_an_archive_that_cannot_be_unpacked_leaves_no_folder_behind(cifar, tmp_path):
    cifar(archive()[:-200])
    with pytest.raises(data.DataError, match=r"cifar-10-binary\.tar\.gz: cannot be unpacked"):
        data.load("cifar10", root=tmp_path / "here")
    assert not (tmp_path / "here" / "cifar-10" / "cifar-10-batches-bin").exists()


def test_downloads_go_to_the_cache_when_the_shared_folder_is_read_only(cifar, tmp_path, monkeypatch):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o555)
    monkeypatch.setenv("MINIDL_DATA", str(shared))
    monkeypatch.setattr("minidl.files.user_cache", lambda: tmp_path / "cache")
    cifar(archive())
    data.load("cifar10")
    shared.chmod(0o755)
    assert list(shared.iterdir()) == []
    assert (tmp_path / "cache" / "cifar-10" / "cifar-10-batches-bin" / "test_batch.bin").is_file()
