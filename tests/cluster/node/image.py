"""Container images of one static binary, written without a container builder.

An archive as `docker save` writes it is a tar of layers, configs and a manifest; containerd imports it. The images
share their one layer and differ in their environment.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path


def write(archive: Path, binary: Path, images: dict[str, dict]) -> None:
    """Writes `images`, from name with tag to {"command": […], "env": {…}}, with `binary` as /app."""
    layer = _layer(binary)
    digest = hashlib.sha256(layer).hexdigest()
    files = {f"{digest}/layer.tar": layer}
    manifest = []
    for name, image in images.items():
        env = ["PATH=/"] + [f"{key}={value}" for key, value in image["env"].items()]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": image["command"], "Env": env, "ExposedPorts": {"8080/tcp": {}}},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        }
        text = json.dumps(config).encode()
        file = hashlib.sha256(text).hexdigest() + ".json"
        files[file] = text
        manifest.append({"Config": file, "RepoTags": [name], "Layers": [f"{digest}/layer.tar"]})
    files["manifest.json"] = json.dumps(manifest).encode()
    with tarfile.open(archive, "w") as tar:
        for name, data in files.items():
            _add(tar, name, data)


def _layer(binary: Path) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "app", binary.read_bytes(), mode=0o755)
        for folder in ("tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            entry.mode = 0o1777
            tar.addfile(entry)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    entry.mode = mode
    tar.addfile(entry, io.BytesIO(data))
