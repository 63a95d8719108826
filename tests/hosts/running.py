"""A real host web GUI, started for the tests on loopback with a data folder of its own."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from tests.hosts import checkpoints

ROOT = Path(__file__).parents[2]

EVERYWHERE = [
    "--api",
    "--skip-prepare-environment",
    "--skip-install",
    "--skip-torch-cuda-test",
    "--skip-python-version-check",
    "--skip-version-check",
    "--no-download-sd-model",
    "--disable-console-progressbars",
    "--no-hashing",
]
FLAGS = {
    "a1111": ["--use-cpu", "all", "--no-half", "--do-not-download-clip", "--disable-nan-check"],
    "forge": ["--always-cpu", "--skip-google-blockly"],
    "reforge": ["--always-cpu", "--all-in-fp32", "--disable-nan-check"],
    "classic": ["--always-cpu"],
    "neo": ["--cpu"],
    "ersatz": ["--always-cpu", "--skip-google-blockly"],
}
"""What makes each host run on the CPU in float32, and without a network."""

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Opens addresses of this machine whatever proxy is set."""

STARTUP_SECONDS = 900
JOB_SECONDS = 400


class RefusedError(Exception):
    """An answer of a host's API that is not 200."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(f"{status}: {body}")
        self.status, self.body = status, body


@dataclass(frozen=True)
class Answer:
    """What a host's API says to a job."""

    pictures: list[Image.Image]
    info: dict[str, Any]
    seconds: float

    @property
    def picture(self) -> Image.Image:
        """The first picture, RGB."""
        return self.pictures[0]

    @property
    def infotext(self) -> str:
        """Of the first picture."""
        return self.info["infotexts"][0]


@dataclass
class Host:
    """One host; `python` runs it from its `folder`, and all that it writes goes to `data`."""

    name: str
    folder: Path
    python: Path
    data: Path
    extension: bool = True
    copied: bool = False
    """Whether our extension is a copy, `installed`, that a test may change."""
    xl: bool = False
    """Whether it has the SDXL checkpoints too."""
    port: int = 0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start it and wait until it takes jobs; raises RuntimeError with the end of its log."""
        self._prepare()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        places = ["--port", str(self.port), "--data-dir", str(self.data)]
        places += ["--gradio-allowed-path", str(self.folder)]  # Forge's page has its scripts there
        if self.name not in ("neo", "ersatz"):  # to them it is short for --ckpt-dir
            places += ["--ckpt", str(self.data / "models" / "Stable-diffusion" / f"{checkpoints.EDITS}.safetensors")]
        environment = {
            **os.environ,
            "HF_HOME": str(self.data / "hf"),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "GRADIO_ANALYTICS_ENABLED": "False",
            "IGNORE_CMD_ARGS_ERRORS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "no_proxy": "127.0.0.1,localhost",
            "IP2P_PROBE_FILE": str(self.records_file),
        }
        environment.pop("PYTHONPATH", None)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(self.python), "launch.py", *EVERYWHERE, *FLAGS[self.name], *places],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and all that it started."""
        if self.process is None:
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.process.pid, number)
                self.process.wait(10)
                break
            except subprocess.TimeoutExpired:
                continue
            except ProcessLookupError:
                break
        self.process = None

    @property
    def url(self) -> str:
        """Of its page."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        """What it prints."""
        return self.data / "log.txt"

    @property
    def installed(self) -> Path:
        """Our extension, among the host's."""
        return self.data / "extensions" / "instruct-pix2pix"

    @property
    def records_file(self) -> Path:
        """What the probe writes."""
        return self.data / "probe.jsonl"

    @property
    def commit(self) -> str:
        """Short name of the commit that its folder is at."""
        said = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=self.folder, capture_output=True, text=True)
        return said.stdout.strip()

    def get(self, path: str) -> Any:
        """Ask its API."""
        return self._ask(path, None)

    def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """Tell its API; raises RefusedError."""
        return self._ask(path, json.dumps(body or {}).encode())

    def page(self) -> str:
        """Return its page as a browser gets it, with the components."""
        parts = []
        for path in ("/", "/config"):
            with DIRECT.open(self.url + path, timeout=JOB_SECONDS) as answer:
                parts.append(answer.read().decode())
        return "\n".join(parts)

    def select(self, checkpoint: str) -> None:
        """Choose a checkpoint as a person does."""
        self.post("options", {"sd_model_checkpoint": f"{checkpoint}.safetensors"})

    def job(self, kind: str = "img2img", **changes: object) -> Answer:
        """Run a small job: 2 steps, 64 px, unless `changes` to the body say otherwise. Raises RefusedError."""
        body: dict[str, Any] = {
            "prompt": "make it snow",
            "steps": 2,
            "width": 64,
            "height": 64,
            "seed": 1,
            "sampler_name": "Euler a",
            "cfg_scale": 7.5,
            "save_images": False,
            "override_settings_restore_afterwards": True,
        }
        if kind == "img2img":
            body |= {"init_images": [encoded(picture())], "image_cfg_scale": 1.5}
        began = time.monotonic()
        said = self.post(kind, body | changes)
        pictures = [Image.open(io.BytesIO(base64.b64decode(one))) for one in said["images"]]
        return Answer([one.convert("RGB") for one in pictures], json.loads(said["info"]), time.monotonic() - began)

    def records(self) -> list[dict[str, Any]]:
        """Return what the probe has written since the last call."""
        if not self.records_file.exists():
            return []
        lines = self.records_file.read_text(encoding="utf-8").splitlines()
        self.records_file.unlink()
        return [json.loads(line) for line in lines]

    def reload(self) -> None:
        """Let it reload its UI, and wait until that is done."""
        before = self._starts()
        self.job(alwayson_scripts={"Probe": {"args": ['{"reload": true}']}})
        deadline = time.monotonic() + STARTUP_SECONDS
        while self._starts() == before and time.monotonic() < deadline:
            time.sleep(0.5)
        self.wait()

    def _starts(self) -> int:
        return self.log.read_text(encoding="utf-8", errors="replace").count("Startup time:")

    def _is_loaded(self) -> bool:
        # A1111 loads its first checkpoint beside all else, and would put it in place of one that is chosen meanwhile.
        return self.name != "a1111" or "Model loaded in" in self.log.read_text(encoding="utf-8", errors="replace")

    def wait(self) -> None:
        """Wait until its page and its API answer, as after a reload of its UI."""
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            try:
                self.get("options")
                self.get("scripts")
                return
            except (OSError, RefusedError):
                time.sleep(1)
        raise RuntimeError(f"{self.name} does not answer.")

    def _prepare(self) -> None:
        # A1111 takes the sizes of a network from a yaml; the others from the weights, and some trip over A1111's yaml.
        models = self.data / "models" / "Stable-diffusion"
        checkpoints.link(checkpoints.folder(), models, yaml=self.name == "a1111", xl=self.xl)
        checkpoints.write_tokenizer(self.data / "hf")
        checkpoints.write_lora(self.data / "models" / "Lora" / "tiny.safetensors")
        checkpoints.link_controlnet(checkpoints.folder(), self.data / "models" / "ControlNet")
        for place in ("embeddings", "models/embeddings"):
            checkpoints.write_embedding(self.data / place / "tinyword.safetensors")
        extensions = self.data / "extensions"
        extensions.mkdir()
        if self.copied:
            for part in ("scripts", "modules", "javascript", "style.css", "install.py"):
                copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
                self.installed.mkdir(exist_ok=True)
                copy(ROOT / part, self.installed / part)
        else:
            self.installed.symlink_to(ROOT)
        (extensions / "zz-probe").symlink_to(Path(__file__).parent / "probe")
        if others := os.environ.get("IP2P_HOST_EXTENSIONS"):
            for other in Path(others).iterdir():
                (extensions / other.name).symlink_to(other.resolve())
        (self.data / "styles.csv").write_text('name,prompt,negative_prompt\nstorm,"in a storm",sun\n', encoding="utf-8")
        options = {
            "sd_model_checkpoint": f"{checkpoints.EDITS}.safetensors",
            "samples_save": False,
            "grid_save": False,
            "show_progress_type": "Approx cheap",
            "show_progress_every_n_steps": 1,
            "sd_checkpoints_limit": 1 if self.xl else 2,
            "disabled_extensions": [] if self.extension else ["instruct-pix2pix"],
        }
        if self.name == "neo":
            options["VERSION_UID"] = "PY313"  # or it waits for Enter, whatever Python runs it
            (self.data / "tmp").mkdir()
        if self.name == "ersatz":
            (self.folder / "localizations").mkdir(exist_ok=True)  # git keeps no empty folder
        (self.data / "config.json").write_text(json.dumps(options), encoding="utf-8")

    def _wait(self) -> None:
        deadline = time.monotonic() + STARTUP_SECONDS
        while time.monotonic() < deadline:
            # The routes are there before the scripts' default arguments are known.
            if self.process and self.process.poll() is None:
                if self._starts() and self._is_loaded():
                    try:
                        self.get("options")  # ersatzForge's own sd-models ends in status 500
                        return
                    except OSError:
                        pass
                time.sleep(1)
                continue
            break
        tail = self.log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"{self.name} did not start:\n{tail}")

    def _ask(self, path: str, body: bytes | None) -> Any:
        request = urllib.request.Request(f"{self.url}/sdapi/v1/{path}", body, {"Content-Type": "application/json"})
        try:
            with DIRECT.open(request, timeout=JOB_SECONDS) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise RefusedError(error.code, error.read().decode(errors="replace")) from None


def _end_with_parent() -> None:
    """On Linux, let a host end also when the tests are killed."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def picture(width: int = 64, height: int = 64) -> Image.Image:
    """A picture with something in every corner."""
    ramp = Image.linear_gradient("L").resize((width, height))
    ball = Image.radial_gradient("L").resize((width, height))
    return Image.merge("RGB", (ramp, ball, ramp.rotate(90).resize((width, height))))


def encoded(image: Image.Image) -> str:
    """A picture as the API takes it."""
    file = io.BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
