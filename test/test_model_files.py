# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from dualfocus_ros.errors import EngineError
from dualfocus_ros.model_files import file_beside, is_file_name, read_manifest, sha256_of

CONTENT = bytes(range(256)) * 10_000  # more than is read at once


def test_a_manifest_is_an_object_in_json(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text('{"name": "Fokusräumer"}', encoding="utf-8")
    assert read_manifest(path) == {"name": "Fokusräumer"}
    for text, words in (("{", "net.json to be the manifest .* in JSON"), ("3", "hold a JSON object, got int")):
        path.write_text(text)
        with pytest.raises(EngineError, match=words):
            read_manifest(path)
    with pytest.raises(EngineError, match=r"cannot read the manifest .*other\.json: No such file"):
        read_manifest(tmp_path / "other.json")


def test_the_digest_is_that_of_the_whole_file(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(CONTENT)
    assert sha256_of(tmp_path / "net.onnx") == hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(EngineError, match="cannot read .*: Is a directory; check path and permissions"):
        sha256_of(tmp_path)


def test_a_file_beside_is_there_and_the_one_that_is_meant(tmp_path: Path) -> None:
    manifest, path = tmp_path / "net.json", tmp_path / "net.onnx"
    digest = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(EngineError, match=r"expected the network .*net\.onnx beside it, found none: copy it$"):
        file_beside(manifest, "net.onnx", digest, "copy it")
    path.write_bytes(CONTENT)
    assert file_beside(manifest, "net.onnx", digest, "copy it") == path
    path.write_bytes(CONTENT[:-1])
    with pytest.raises(EngineError, match=rf"its SHA-256 is .*, net\.json says {digest[:12]}\.\.\.: .*; copy it$"):
        file_beside(manifest, "net.onnx", digest, "copy it")


@pytest.mark.parametrize("value", ["", "a/b.onnx", "../b.onnx", "/b.onnx", 3, None])
def test_what_cannot_be_a_file_beside(value: object) -> None:
    assert is_file_name("b.onnx")
    assert not is_file_name(value)
