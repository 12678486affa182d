"""A hub of model files on the loopback address that the real client of the Hugging Face hub talks to."""

import hashlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import segmentation_models_pytorch as smp
import timm
import torch
from huggingface_hub import constants

COMMIT = "0" * 40


@dataclass
class Hub:
    """Files by `repository/name`; `asked` are the paths that were downloaded, with the byte they began at."""

    files: dict[str, bytes]
    url: str = ""
    asked: list[tuple[str, int]] = field(default_factory=list)
    statuses: dict[str, int] = field(default_factory=dict)  # what it answers to all questions of a repository
    cut: set[str] = field(default_factory=set)  # downloads from these repositories end in the middle, once each

    def environment(self, cache: Path) -> dict[str, str]:
        """What a process needs to take this hub for the one and only."""
        quiet = {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_XET": "1"}
        return {**os.environ, **quiet, "HF_ENDPOINT": self.url, "HF_HOME": str(cache), "HF_HUB_CACHE": str(cache)}

    def take_place(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Be the one and only hub of this process until its test ends."""
        own = {
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "ENDPOINT": self.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": self.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(cache),
        }
        for name, value in own.items():
            monkeypatch.setattr(constants, name, value)


@contextmanager
def hub_of(files: dict[str, bytes]) -> Iterator[Hub]:
    """A hub that serves these files until the block ends."""
    hub = Hub(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def _found(self) -> bytes | None:
            repository, _, rest = self.path.lstrip("/").partition("/resolve/")
            return hub.files.get(f"{repository}/{rest.partition('/')[2].partition('?')[0]}")

        def _head(self, body: bytes | None, begin: int = 0) -> bool:
            wrong = hub.statuses.get(self.path.lstrip("/").partition("/resolve/")[0])
            status = wrong or (404 if body is None else 206 if begin else 200)
            self.send_response(status)
            if body is None or status >= 400:
                self.send_header("Content-Length", "0")
                self.end_headers()
                return False
            digest = hashlib.sha256(body).hexdigest()
            for name, value in (
                ("X-Repo-Commit", COMMIT),
                ("ETag", f'"{digest}"'),
                ("X-Linked-ETag", f'"{digest}"'),
                ("X-Linked-Size", str(len(body))),
                ("Accept-Ranges", "bytes"),
                ("Content-Length", str(len(body) - begin)),
            ):
                self.send_header(name, value)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            self.end_headers()
            return True

        def do_HEAD(self) -> None:
            self._head(self._found())

        def do_GET(self) -> None:
            body = self._found()
            begin = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
            if self._head(body, begin):
                assert body is not None
                hub.asked.append((self.path, begin))
                part = body[begin:]
                repository = self.path.lstrip("/").partition("/resolve/")[0]
                if repository in hub.cut and len(part) > 1000:
                    hub.cut.remove(repository)
                    self.wfile.write(part[: len(part) // 2])
                    self.wfile.flush()
                    self.close_connection = True
                    return
                self.wfile.write(part)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def published(name: str) -> dict[str, torch.Tensor]:
    """What a library would give for a name with its tag: random weights here, all different from those of a network."""
    architecture, _, tag = name.partition(".")
    torch.manual_seed(len(name))
    made = smp.encoders.get_encoder(architecture) if tag == "imagenet" else timm.create_model(architecture)
    return {key: value + 1 if value.is_floating_point() else value for key, value in made.state_dict().items()}
