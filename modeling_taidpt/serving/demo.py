"""A page in the browser that tags photographs: uploads, custom labels, chips, heatmaps, CSV (Gradio, `taidpt[demo]`).

The server reads uploads and example photographs only: an address or a server path in a request is refused. Number of
photographs, bytes, pixels and labels are limited. Nothing is loaded from the network, by the server or by the page.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .photograph_tagger import (
    MAX_LABEL_LENGTH,
    MAX_LABELS,
    MAX_PIXELS,
    SHOWN_LABELS,
    PhotographTagger,
    Tag,
    TaggedPhotograph,
    found_tags,
    read_own_labels,
    write_table,
)
from .shown_text import escape, visible_text

MAX_UPLOAD = 10 * 2**20  # bytes
SHOWN_CHIPS = 30
SHOWN_IN_CAPTION = 2  # labels below a photograph of the gallery
CHIP_COLORS = {"found": "#e11d48"}
CSS = """
#found .token {border-radius: 1rem; padding: 0.15rem 0.7rem}
#gallery .grid-wrap {height: auto; min-height: 0; max-height: 560px; overflow-y: auto}
#gallery .caption-label {left: 0.4rem; right: 0.4rem; max-width: none; white-space: normal; text-align: left}
@media (max-width: 600px) {#gallery .grid-container {grid-template-columns: 1fr 1fr}}
"""
FIRST_EXAMPLE = "coffee"  # what the page opens with
TITLE = "Tag photographs with your own labels"
INTRODUCTION = (
    "Choose photographs. The model looks at each as a whole and scores its own labels, or yours. Nothing leaves the "
    "machine that serves this page."
)
ABOUT_SCORES = (
    "A score is the probability of the label by the checkpoint's own calibration. Compare scores with each other "
    "before you trust their size."
)


def build_demo(
    model: Any = None,
    *,
    examples: Sequence[str | Path] | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Any:
    """Builds the page; start it with [`launch_demo`], which also limits uploads.

    Args:
        model (`str` or `Pipeline`, *optional*): folder or Hub repository of a checkpoint, or a pipeline
            "multi-label-image-classification"; the checkpoint that ships by default.
        examples (`Sequence[str]`, *optional*): photographs that the page opens with; those that ship by default.
        max_pixels (`int`, *optional*, defaults to 40 million): pixels of a photograph at most.

    Returns:
        `gradio.Blocks`: the page.

    Raises:
        ImportError: the extra `taidpt[demo]` is not installed.
        OSError: the checkpoint cannot be read.
    """
    gr = _gradio()
    server = PhotographTagger(model, max_pixels)
    examples = example_photographs() if examples is None else [str(path) for path in examples]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                inputs = _draw_inputs(gr, server, examples)
            with gr.Column(scale=3, min_width=340):
                outputs = _draw_outputs(gr)
        fitted_on = getattr(server.tagger.model.config, "score_calibration", None)
        gr.Markdown(f"{ABOUT_SCORES} Fitted on {escape(fitted_on)}." if fitted_on else ABOUT_SCORES)
        _connect(gr, page, server, inputs, outputs)
    return page


def launch_demo(model: Any = None, *, examples: Sequence[str | Path] | None = None, **options: Any) -> Any:
    """Builds the page and serves it, on this machine only unless told otherwise.

    Args:
        model (`str` or `Pipeline`, *optional*): as for [`build_demo`].
        examples (`Sequence[str]`, *optional*): as for [`build_demo`].
        **options: as of `gradio.Blocks.launch`: `server_name` ("0.0.0.0" serves other machines), `server_port`,
            `prevent_thread_lock`, `inbrowser` and so on.

    Returns:
        `gradio.Blocks`: the page; it is being served.

    Raises:
        ImportError: the extra `taidpt[demo]` is not installed.
        OSError: the checkpoint cannot be read, or the port is taken.
    """
    gr = _gradio()
    page = build_demo(model, examples=examples)
    system = ["system-ui", "sans-serif"]  # no font from the network
    theme = gr.themes.Soft(primary_hue="rose", font=system, font_mono=["ui-monospace", "monospace"])
    defaults = {"max_file_size": MAX_UPLOAD, "theme": theme, "css": CSS, "ssr_mode": False, "footer_links": []}
    page.launch(**defaults | options)
    return page


def example_photographs() -> list[str]:
    """The photographs that ship: beside the installed package, or in a checkout of the project."""
    package = Path(__file__).parents[1]
    for folder in (package / "example_images", package.parent / "examples" / "images"):
        if folder.is_dir():
            files = sorted(folder.glob("*.jpg"), key=lambda file: (file.stem != FIRST_EXAMPLE, file.name))
            return [str(file) for file in files]
    return []


class Inputs(NamedTuple):
    """The parts of the page that people write to."""

    photographs: Any
    examples: Any  # the button that takes the examples, and their files
    example_files: list[str]
    labels: Any
    button: Any
    own_thresholds: Any
    threshold: Any


class Outputs(NamedTuple):
    """The parts of the page that say what was found."""

    message: Any
    gallery: Any
    chips: Any
    scores: Any
    choice: Any
    heatmap: Any
    table: Any
    download: Any


def _draw_inputs(gr: Any, server: PhotographTagger, examples: Sequence[str]) -> Inputs:
    """The left side of the page."""
    photographs = gr.File(
        examples, label="Photographs", file_count="multiple", file_types=["image"], height=190, elem_id="photographs"
    )
    example_files = [entry["path"] for entry in photographs.value or []]  # copies in the cache, which are kept there
    _take_uploads_only(photographs)
    with gr.Row():
        take_examples = gr.Button("Examples", visible=bool(examples), elem_id="examples", min_width=100)
        button = gr.Button("Tag", variant="primary", elem_id="tag", min_width=100)
    labels = gr.Textbox(
        label="Your labels",
        placeholder="cup, spoon, newspaper. Empty: the labels of the checkpoint.",
        lines=2,
        max_length=(MAX_LABEL_LENGTH + 2) * MAX_LABELS,
        elem_id="labels",
    )
    known = server.tagger.model.config.labels
    with gr.Accordion(f"The {len(known)} labels of the checkpoint", open=False, elem_id="known"):
        gr.Markdown(escape(", ".join(sorted(known))))
    own_thresholds = gr.Checkbox(
        server.has_thresholds,
        label="Thresholds of the checkpoint",
        info="Each label has its own, fitted so that as many labels are found as photographs show.",
        visible=server.has_thresholds,
        elem_id="own_thresholds",
    )
    threshold = gr.Slider(
        0, 1, 0.5,
        step=0.01,
        label="Score that a label needs to be found",
        info="Left: more labels, more of them wrong. Right: fewer labels, surer ones.",
        visible=not server.has_thresholds,
        elem_id="threshold",
    )  # fmt: skip
    return Inputs(photographs, take_examples, example_files, labels, button, own_thresholds, threshold)


def _draw_outputs(gr: Any) -> Outputs:
    """The right side of the page."""
    message = gr.Markdown("", elem_id="message")
    gr.Markdown("Choose a photograph, and a label to see where it is.")
    gallery = gr.Gallery(
        show_label=False, label="Results", columns=4, object_fit="cover", allow_preview=False, interactive=False,
        buttons=[], elem_id="gallery",
    )  # fmt: skip
    chips = gr.HighlightedText(label="Found", color_map=CHIP_COLORS, show_inline_category=False, elem_id="found")
    with gr.Row():
        with gr.Column(min_width=280):
            scores = gr.Label(label="Scores", num_top_classes=SHOWN_LABELS, show_heading=False, elem_id="scores")
        with gr.Column(min_width=280):
            heatmap = gr.Image(
                label="Heatmap", interactive=False, height=280, buttons=["download", "fullscreen"], elem_id="heatmap"
            )
            choice = gr.Radio([], label="Where is it?", elem_id="choice")
    with gr.Accordion("All results as a table", open=False):
        table = gr.Dataframe(
            headers=["photograph", "found", "scores"], datatype="str", interactive=False, wrap=True, buttons=[],
            column_widths=["25%", "45%", "30%"],
            elem_id="table",
        )  # fmt: skip
    download = gr.DownloadButton("Download as CSV", interactive=False, elem_id="download")
    return Outputs(message, gallery, chips, scores, choice, heatmap, table, download)


def _connect(gr: Any, page: Any, server: PhotographTagger, inputs: Inputs, outputs: Outputs) -> None:
    """What happens when: tag, then show all photographs, then the chosen one, then where its best label is."""
    tagged, chosen = gr.State([]), gr.State(0)
    view = PageView(server, Path(outputs.download.GRADIO_CACHE))
    private = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "model"}
    controls = [inputs.threshold, inputs.own_thresholds]

    def show_all(event: Any) -> Any:
        parts = [outputs.gallery, outputs.table, outputs.download, inputs.threshold]
        return event(view.show_all, [tagged, *controls], parts, **private)

    def show_one(event: Any) -> Any:
        return event(
            view.show_one, [tagged, chosen, *controls], [outputs.chips, outputs.scores, outputs.choice], **private
        )

    def locate(event: Any) -> Any:
        return event(view.locate, [tagged, chosen, outputs.choice], [outputs.heatmap], **private)

    def tag(event: Any) -> None:
        done = event(server.tag, [inputs.photographs, inputs.labels], [tagged, outputs.message], **private)
        locate(show_one(show_all(done.then(lambda: 0, None, [chosen], **private).then).then).then)

    def choose(event: Any) -> int:
        return event.index

    choose.__annotations__["event"] = gr.SelectData  # Gradio looks for the type itself, and is imported late here

    def choose_label(event: Any) -> str:
        return event.value

    choose_label.__annotations__["event"] = gr.SelectData
    photographs = inputs.photographs
    starts = [page.load, photographs.upload, photographs.clear, photographs.delete]
    tag(functools.partial(gr.on, [*starts, inputs.button.click, inputs.labels.submit]))
    take = inputs.examples.click(lambda: (inputs.example_files, ""), None, [photographs, inputs.labels], **private)
    tag(take.then)
    locate(show_one(outputs.gallery.select(choose, None, [chosen], **private).then).then)
    for change in (inputs.threshold.release, inputs.own_thresholds.change):
        show_one(show_all(change).then)
    locate(outputs.choice.input)
    locate(outputs.scores.select(choose_label, None, [outputs.choice], **private).then)


class PageView:
    """What the page shows of the results.

    Args:
        server (`PhotographTagger`): whose results they are.
        cache (`Path`): folder of Gradio's files, whose contents are deleted after an hour.
    """

    def __init__(self, server: PhotographTagger, cache: Path) -> None:
        self.server, self.cache = server, cache

    def show_all(
        self, tagged: Sequence[TaggedPhotograph], threshold: float, own: bool
    ) -> tuple[list[tuple[Image.Image, str]], list[list[str]], Any, Any]:
        """Gallery, table, download and the range of the slider."""
        gr = _gradio()
        top = self._top(tagged)
        threshold = min(threshold, top)
        found = [found_tags(photograph, None if own else threshold) for photograph in tagged]
        gallery = [(photograph.thumbnail, _caption(tags)) for photograph, tags in zip(tagged, found, strict=True)]
        table = [
            [
                visible_text(photograph.name),
                ", ".join(map(_shown, tags)),
                ", ".join(f"{tag.score:.3f}" for tag in tags),
            ]
            for photograph, tags in zip(tagged, found, strict=True)
        ]
        file = None
        if tagged:
            self.cache.mkdir(parents=True, exist_ok=True)
            file = str(Path(tempfile.mkdtemp(dir=self.cache)) / "tags.csv")
            write_table(tagged, None if own else threshold, file)
        slider = gr.Slider(maximum=top, step=top / 100, value=threshold, visible=not own)
        return gallery, table, gr.DownloadButton(value=file, interactive=bool(tagged)), slider

    def show_one(
        self, tagged: Sequence[TaggedPhotograph], chosen: int, threshold: float, own: bool
    ) -> tuple[list[tuple[str, str | None]], Any, Any]:
        """Chips, bars and labels to choose from of one photograph."""
        gr = _gradio()
        if not tagged:
            return [], None, gr.Radio([], value=None)
        photograph = tagged[min(chosen, len(tagged) - 1)]
        found = found_tags(photograph, None if own else min(threshold, self._top(tagged)))
        more = len(found) - SHOWN_CHIPS
        chips: list[tuple[str, str | None]] = [(_with_score(tag), "found") for tag in found[:SHOWN_CHIPS]]
        chips += [(f"and {more} more", None)] if more > 0 else []
        best = photograph.tags[:SHOWN_LABELS]
        names = list(dict.fromkeys(map(_shown, best)))
        return (
            chips or [("No label reaches its threshold." if own else "No label has this score.", None)],
            {_shown(tag): tag.score for tag in best},
            gr.Radio(names, value=names[0] if names else None),
        )

    def locate(self, tagged: Sequence[TaggedPhotograph], chosen: int, label: str | None) -> Image.Image | None:
        """The chosen photograph with the heatmap of one of its labels."""
        photograph = tagged[min(chosen, len(tagged) - 1)] if tagged else None
        found = next((tag for tag in photograph.tags if _shown(tag) == label), None) if photograph else None
        if photograph is None or found is None:
            return None
        try:
            return self.server.locate(photograph, found.label)
        except ValueError as error:
            raise _gradio().Error(str(error), print_exception=False) from error

    def _top(self, tagged: Sequence[TaggedPhotograph]) -> float:
        """Where the slider ends: 1 for probabilities; else, as such scores are small, at the best score."""
        best = max((tag.score for photograph in tagged for tag in photograph.tags), default=1.0)
        calibrated = getattr(self.server.tagger.model.config, "score_calibration", "unknown") is not None
        return 1.0 if calibrated else min(float(f"{1.05 * best:.1e}"), 1.0)


def _shown(tag: Tag) -> str:
    """The label as the page shows it, which may be of a checkpoint of anybody."""
    return visible_text(tag.label, MAX_LABEL_LENGTH)


def _with_score(tag: Tag) -> str:
    return f"{_shown(tag)} {tag.score:.0%}"


def _caption(tags: Sequence[Tag]) -> str:
    """The first labels of a photograph, for its place in the gallery."""
    names = [_with_score(tag) for tag in tags[:SHOWN_IN_CAPTION]]
    more = f" +{len(tags) - SHOWN_IN_CAPTION}" if len(tags) > SHOWN_IN_CAPTION else ""
    return " · ".join(names) + more if names else "nothing found"


def _take_uploads_only(component: Any) -> None:
    """Makes a file component refuse what is not an upload: Gradio's server would fetch what an address names.

    Methods of this one component are replaced; a subclass would make Gradio write a stub file into the package.
    """
    gr, keep_in_cache = _gradio(), component.async_move_resource_to_block_cache

    async def move_to_cache(path: str | Path | None) -> str | None:
        if path is not None and not os.path.isfile(path):
            raise gr.Error("Upload the photograph: addresses are not fetched here.", print_exception=False)
        return await keep_in_cache(path)

    def preprocess(payload: Any) -> list[str]:
        """The files of the uploads, not opened: whether they are images is checked where messages are written."""
        # Gradio itself checks only what says that it is a file: {"path": ...} alone would pass.
        entries = [] if payload is None else [payload] if hasattr(payload, "path") else list(payload)
        uploads = Path(component.GRADIO_CACHE).resolve()
        files = [Path(entry.path or "").resolve() for entry in entries]
        if not all(file.is_relative_to(uploads) and file.is_file() for file in files):
            raise gr.Error("Upload the photograph: files of the server are not taken.", print_exception=False)
        return [str(file) for file in files]

    component.async_move_resource_to_block_cache, component.preprocess = move_to_cache, preprocess


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The page needs Gradio: run `pip install "taidpt[demo]"`.') from error
    return gradio


__all__ = ["PhotographTagger", "build_demo", "example_photographs", "launch_demo", "read_own_labels"]
