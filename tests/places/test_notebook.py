"""The notebook, run from top to bottom in a kernel of its own: with the demo model, without the hub, without Colab."""

import base64
import io
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

from instruct_pix2pix import EditModel, EditSettings, edit, open_picture, read_infotext

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "instruct-pix2pix.ipynb"
EXAMPLES = ROOT / "examples"

COLAB = {
    "__init__.py": "",
    "drive.py": "def mount(place): print('mounted', place)",
    "output.py": (
        "import urllib.request\n"
        "def eval_js(script):\n"
        "    return 'https://k-0-colab.googleusercontent.com/'\n"
        "def serve_kernel_port_as_iframe(port, height):\n"
        "    answer = urllib.request.urlopen(f'http://127.0.0.1:{port}/')\n"
        "    print(answer.status, answer.headers['Content-Security-Policy'], answer.headers['X-Frame-Options'])\n"
    ),
}
"""The modules of Colab that the notebook uses, as far as it does."""


class Kernel:
    """A running kernel, and the notebook in it."""

    def __init__(self, client: NotebookClient, folder: Path) -> None:
        self.client = client
        self.notebook = client.nb
        self.folder = folder

    def cell(self, name: str) -> NotebookNode:
        return next(cell for cell in self.notebook.cells if cell.id == name)

    def run(self, source: str) -> Sequence[NotebookNode]:
        """Run another cell and return its outputs. Raises CellExecutionError."""
        cell = nbformat.v4.new_code_cell(source)
        self.notebook.cells.append(cell)
        return self.client.execute_cell(cell, len(self.notebook.cells) - 1).outputs


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    """A kernel in which every cell has been run; in a folder of its own, with nothing of a person's."""
    home = tmp_path_factory.mktemp("notebook")
    folder = home / "work"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(home / name))
        path = [str(ROOT / "modules"), *filter(None, [os.environ.get("PYTHONPATH")])]
        patch.setenv("PYTHONPATH", os.pathsep.join(path))
        patch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # no hub answers there
        patch.setenv("NO_PROXY", "127.0.0.1")
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        client = NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(folder)}})
        with client.setup_kernel():
            for index, cell in enumerate(list(notebook.cells)):
                client.execute_cell(cell, index)
            client.set_widgets_metadata()
            yield Kernel(client, folder)


def told(outputs: Sequence[NotebookNode]) -> str:
    """What cells print, and the text of what they show."""
    return "".join(one.get("text", "") or one.get("data", {}).get("text/html", "") for one in outputs)


def pictures(outputs: Sequence[NotebookNode]) -> list[tuple[Image.Image, Image.Image]]:
    """Before and after, of each result that a cell shows."""
    coded = [re.findall(r"base64,([^\"]+)", one.get("data", {}).get("text/html", "")) for one in outputs]
    found = [[Image.open(io.BytesIO(base64.b64decode(one))).convert("RGB") for one in both] for both in coded if both]
    return [(before, after) for before, after in found]


def difference(one: Image.Image, other: Image.Image) -> float:
    """The mean difference of two pictures of one size, of 255."""
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def test_the_notebook_is_kept_without_outputs() -> None:
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert code and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=4))


def test_the_first_edit_shows_the_picture_beside_its_edit(kernel: Kernel, model: EditModel) -> None:
    assert re.search(r"PyTorch 2\.\d+.* on (cpu|cuda|mps|xpu)", told(kernel.cell("set-up").outputs))
    [(before, after)] = pictures(kernel.cell("demo").outputs)
    house = open_picture(EXAMPLES / "house.png")
    [expected] = edit(model, house, EditSettings("make it winter", seed=1))
    assert difference(before, house.image) < 3  # WebP is not exact
    assert difference(after, expected.image) < 6  # nor is another number format
    assert difference(after, before) > 10


def test_the_steps_move_the_notebooks_own_bar(kernel: Kernel) -> None:
    [view] = [
        one.data["application/vnd.jupyter.widget-view+json"]["model_id"]
        for one in kernel.cell("demo").outputs
        if "application/vnd.jupyter.widget-view+json" in one.get("data", {})
    ]
    state = kernel.notebook.metadata.widgets["application/vnd.jupyter.widget-state+json"]["state"]
    children = [state[child.removeprefix("IPY_MODEL_")]["state"] for child in state[view]["state"]["children"]]
    assert any(child.get("value") == child.get("max") == 20.0 for child in children)
    assert any("20/20" in str(child.get("value")) for child in children)


def test_without_the_hub_a_sentence_says_so_and_the_demo_goes_on(kernel: Kernel) -> None:
    said = told(kernel.cell("download").outputs)
    assert "127.0.0.1:9 cannot be reached" in said and said.endswith("The cells below use the demo model.\n")
    assert len(pictures(kernel.cell("edit").outputs)) == 4


def test_the_edit_is_written_with_its_settings(kernel: Kernel) -> None:
    [(_, after)] = pictures(kernel.cell("tune").outputs)
    written = open_picture(kernel.folder / "edited.png")
    assert difference(written.image, after) < 3
    assert (read_infotext(kernel.folder / "edited.png") or "").startswith("make the car blue\nSteps: 20")


def test_the_page_was_up_and_there_is_a_link_to_it(kernel: Kernel) -> None:
    assert re.search(r'<a href="http://127\.0\.0\.1:\d+/" target="_blank">', told(kernel.cell("page").outputs))
    assert "The page is closed." in told(kernel.cell("stop").outputs)
    assert kernel.run("print(page.poll())")[0].text.strip() != "None"


def test_a_folder_is_edited(kernel: Kernel) -> None:
    assert "There is no Drive here" in told(kernel.cell("folder").outputs)
    names = sorted(path.name for path in EXAMPLES.glob("*.png"))
    made = kernel.folder / "examples-in-winter"
    assert sorted(path.name for path in made.glob("*.png")) == names
    assert all((read_infotext(made / name) or "").startswith("make it winter\n") for name in names)


def test_an_interrupt_ends_an_edit_after_the_step_and_the_kernel_goes_on(kernel: Kernel) -> None:
    outputs = kernel.run(
        """
import signal
def see(progress):
    seen.append(progress.step)
seen = []
four = EditSettings("make it winter", seed=1, steps=4)
[before] = edit(model, house, four, on_step=lambda _: None)
# in the middle of the second step, what a kernel is sent when a person presses 'Interrupt'
calls = iter([lambda: None, lambda: signal.raise_signal(signal.SIGINT)])
hook = model.unet.register_forward_hook(lambda *_: next(calls)())
try:
    for result in edit(model, house, EditSettings("make it winter", seed=1), on_step=see):
        print("not interrupted")
except KeyboardInterrupt:
    print("interrupted after", seen)
hook.remove()
[after] = edit(model, house, four, on_step=lambda _: None)
print(after.image.tobytes() == before.image.tobytes())
"""
    )
    assert told(outputs) == "interrupted after [1, 2]\nTrue\n"


def test_on_colab_the_page_is_in_a_frame_and_drive_is_mounted(kernel: Kernel) -> None:
    package = kernel.folder / "colab" / "google" / "colab"
    package.mkdir(parents=True)
    for name, source in COLAB.items():
        (package / name).write_text(source)
    kernel.run(f"sys.path.insert(0, {str(kernel.folder / 'colab')!r})")
    said = told(kernel.run(kernel.cell("page").source))
    kernel.run(kernel.cell("stop").source)
    policy = "frame-ancestors 'self' https://*.googleusercontent.com https://colab.research.google.com"
    assert "200 " in said and policy in said and said.rstrip().endswith("None")
    said = told(kernel.run(kernel.cell("folder").source))
    assert said.startswith("mounted /content/drive\n/content/drive/MyDrive/photos is not there: make that folder")
