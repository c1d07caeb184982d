"""Container images of one binary, written without a container builder.

An archive as `docker save` writes it is a tar of layers, configs and a manifest; containerd imports it. The images
share their one layer and differ in their environment.
"""

import hashlib
import io
import json
import re
import subprocess
import tarfile
from pathlib import Path

# Who the daemon's image runs as, as the Dockerfile says it; a test compares the two.
USER = "65532:65532"


def write(archive: Path, binary: Path, images: dict[str, dict]) -> None:
    """Writes `images`, from name with tag to {"command": […], "env": {…}}, with the static `binary` as /app."""
    _write(archive, {"app": binary.read_bytes()}, images)


def write_linked(archive: Path, binary: Path, name: str) -> None:
    """Writes the image `name` of a dynamically linked binary, stripped, with the libraries that it is linked to."""
    stripped = archive.with_suffix(".stripped")
    subprocess.run(["strip", "-o", stripped, binary], check=True)
    files = {binary.name: stripped.read_bytes()}
    stripped.unlink()
    linked = subprocess.run(["ldd", binary], check=True, stdout=subprocess.PIPE, text=True).stdout
    for path in re.findall(r"(/\S+) \(0x", linked):
        files[path.lstrip("/")] = Path(path).read_bytes()
    _write(archive, files, {name: {"command": [f"/{binary.name}"], "env": {}, "user": USER}})


def _write(archive: Path, files: dict[str, bytes], images: dict[str, dict]) -> None:
    layer = _layer(files)
    digest = hashlib.sha256(layer).hexdigest()
    files = {f"{digest}/layer.tar": layer}
    manifest = []
    for name, image in images.items():
        env = ["PATH=/"] + [f"{key}={value}" for key, value in image["env"].items()]
        config = {
            "architecture": "amd64",
            "os": "linux",
            "config": {
                "Entrypoint": image["command"],
                "Env": env,
                "User": image.get("user", ""),
                "ExposedPorts": {"8080/tcp": {}},
            },
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


def _layer(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            _add(tar, name, data, mode=0o755)
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
