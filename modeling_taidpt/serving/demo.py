"""A page in the browser that tags photographs: upload, custom labels, scores, heatmaps (Gradio, `taidpt[demo]`).

The server reads uploads and example photographs only: an address or a server path in a request is refused. Number of
bytes, pixels and labels are limited. Nothing is loaded from the network, by the server or by the page.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from .. import DEFAULT_CHECKPOINT
from ..pipelines.image_reading import ImageEntry, read_image

MAX_UPLOAD = 10 * 2**20  # bytes
MAX_PIXELS = 40_000_000
MAX_LABELS = 100
MAX_LABEL_LENGTH = 200  # characters
SHOWN_LABELS = 10  # bars and choices
SHOWN_SIDE = 640  # pixels of the longer side of a heatmap
TITLE = "Tag photographs with your own labels"
INTRODUCTION = (
    "Choose a photograph. The model scores its own labels, or yours: write them with commas between. It learned them "
    "from captions alone; no labelled photograph was needed."
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
        examples (`Sequence[str]`, *optional*): example photographs; those that ship by default.
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
    has_thresholds = getattr(server.tagger.model.config, "score_thresholds", None) is not None
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        tags = gr.State([])
        gr.Markdown(f"# {TITLE}\n{INTRODUCTION}")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photograph = _take_uploads_only(
                    gr.Image(
                        label="Photograph",
                        type="filepath",
                        sources=["upload", "clipboard"],
                        height=300,
                        elem_id="photograph",
                    )
                )
                if examples:
                    gr.Examples(examples, photograph, label="Examples", api_visibility="private")
                labels = gr.Textbox(
                    label="Your labels",
                    placeholder="cup, spoon, newspaper. Empty: the labels of the checkpoint.",
                    lines=2,
                    max_length=(MAX_LABEL_LENGTH + 2) * MAX_LABELS,
                    elem_id="labels",
                )
                own = gr.Checkbox(has_thresholds, label="Thresholds of the checkpoint", visible=has_thresholds)
                threshold = gr.Slider(
                    0, 1, 0, step=0.001, label="Threshold", visible=not has_thresholds, elem_id="threshold"
                )
                button = gr.Button("Tag", variant="primary", elem_id="tag")
            with gr.Column(scale=3, min_width=360):
                found = gr.Markdown("", elem_id="found")
                message = gr.Markdown("", elem_id="message")
                chart = gr.BarPlot(
                    x="label", y="score", color="threshold", sort="-y", height=320, label="Scores",
                    color_map={"reached": "#d1495b", "below": "#9aa5b1"}, x_title=" ", y_title="score",
                    x_label_angle=-35, colors_in_legend=[], tooltip="all", y_axis_format="~g", elem_id="chart",
                )  # fmt: skip
                choice = gr.Radio([], label="Where is it?", elem_id="choice")
                heatmap = gr.Image(
                    label="Heatmap",
                    interactive=False,
                    height=320,
                    buttons=["download", "fullscreen"],
                    elem_id="heatmap",
                )
        fitted_on = getattr(server.tagger.model.config, "score_calibration", None)
        gr.Markdown(f"{ABOUT_SCORES} Fitted on {escape(fitted_on)}." if fitted_on else ABOUT_SCORES)
        private = {"api_visibility": "private", "show_progress": "minimal", "concurrency_id": "model"}
        gr.on(
            [photograph.change, button.click, labels.submit],
            server.tag, [photograph, labels], [tags, message], **private,
        ).then(
            server.show, [tags, threshold, own], [found, chart, choice, threshold], **private,
        ).then(
            server.locate, [photograph, tags, choice], [heatmap], **private,
        )  # fmt: skip
        for control in (threshold.release, own.change):
            control(server.show, [tags, threshold, own], [found, chart, choice, threshold], **private)
        choice.input(server.locate, [photograph, tags, choice], [heatmap], **private)
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
    page.launch(**{"max_file_size": MAX_UPLOAD, "theme": theme, "ssr_mode": False, "footer_links": []} | options)
    return page


def example_photographs() -> list[str]:
    """The photographs that ship: beside the installed package, or in a checkout of the project."""
    package = Path(__file__).parents[1]
    for folder in (package / "example_images", package.parent / "examples" / "images"):
        if folder.is_dir():
            return sorted(map(str, folder.glob("*.jpg")))
    return []


class Tag(NamedTuple):
    """One label of a photograph."""

    label: str
    score: float
    present: bool  # by the thresholds of the checkpoint


class PhotographTagger:
    """What the page does on the server, as plain functions.

    Args:
        model (`str` or `Pipeline`, *optional*): as for [`build_demo`].
        max_pixels (`int`, *optional*, defaults to 40 million): as for [`build_demo`].
    """

    def __init__(self, model: Any = None, max_pixels: int = MAX_PIXELS) -> None:
        if model is None or isinstance(model, (str, Path)):
            import transformers

            import modeling_taidpt  # noqa: F401  registers the pipeline

            pipeline: Any = transformers.pipeline
            model = pipeline("multi-label-image-classification", model=str(model or DEFAULT_CHECKPOINT))
        self.tagger, self.max_pixels = model, max_pixels

    def tag(self, photograph: str | None, text: str | None) -> tuple[list[Tag], str]:
        """Scores all labels of a photograph.

        Args:
            photograph (`str`, *optional*): file of the upload.
            text (`str`, *optional*): custom labels with commas or line breaks between.

        Returns:
            `tuple[list[Tag], str]`: labels by falling score, none where something is wrong; and a message.
        """
        if photograph is None:
            return [], ""
        try:
            labels, notes = read_own_labels(text or "")
            image = self._read(photograph)
            options = {"candidate_labels": labels} if labels else {}
            results = self.tagger(image, **options)
            present = {result["label"] for result in results}
            if getattr(self.tagger.model.config, "score_thresholds", None) is not None:
                present = {result["label"] for result in self.tagger(image, threshold="auto", **options)}
        except ValueError as error:
            return [], f"⚠️ {error}"
        notes += self._notes(labels)
        return [Tag(row["label"], row["score"], row["label"] in present) for row in results], "  \n".join(notes)

    def show(self, tags: Sequence[Any], threshold: float, own: bool) -> tuple[str, Any, Any, Any]:
        """What is seen of the scores: a heading, the chart, the labels to choose from, the range of the slider."""
        import pandas as pd

        gr = _gradio()
        found = [Tag(*tag) for tag in tags]
        best = max((tag.score for tag in found), default=1.0)
        threshold = min(threshold, best)  # the best label of a photograph is always within reach
        if not own:
            found = [tag._replace(present=tag.score >= threshold) for tag in found]
        present = [tag.label for tag in found if tag.present][: SHOWN_LABELS if own or threshold else 1]
        heading = f"### {escape(' · '.join(present))}" if present else ""
        if found and not present:
            heading = "### No label reaches the threshold"
        found = found[:SHOWN_LABELS]
        bars = [(tag.label, tag.score, "reached" if tag.present else "below") for tag in found]
        chart = gr.BarPlot(pd.DataFrame(bars, columns=["label", "score", "threshold"]))
        labels = [tag.label for tag in found]
        choice = gr.Radio(labels, value=labels[0] if labels else None)
        top = min(float(f"{1.05 * best:.1e}"), 1.0)  # two digits that are not below the best score
        slider = gr.Slider(maximum=top, step=top / 200, value=threshold, visible=not own)
        return heading, chart, choice, slider

    def locate(self, photograph: str | None, tags: Sequence[Sequence[Any]], label: str | None) -> Image.Image | None:
        """The photograph with the heatmap of one of its labels."""
        from .plots import overlay_heatmap

        labels = [tag[0] for tag in tags]
        if photograph is None or label not in labels:
            return None
        image = self._read(photograph)
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        own = set(labels) != set(self.tagger.model.config.labels)
        results = self.tagger(image, return_heatmaps=True, candidate_labels=labels if own else None)
        return overlay_heatmap(image, next(row["heatmap"] for row in results if row["label"] == label))

    def _read(self, photograph: str) -> Image.Image:
        """Reads an upload, once its number of pixels is known to be small enough."""
        content = Path(photograph).read_bytes()
        try:
            return read_image(ImageEntry(content), max_pixels=self.max_pixels)
        except ValueError as error:
            raise ValueError(f"This file cannot be read: {str(error).partition(': ')[2]}") from error

    def _notes(self, labels: Sequence[str]) -> list[str]:
        """What is to be said about custom labels."""
        model, notes = self.tagger.model, []
        unlearned = [label for label in labels if label not in model.config.label_indices]
        if unlearned:
            notes.append(f"No prompts were learned for {escape(', '.join(unlearned))}: their scores are less sure.")
        rare = model.rare_words(labels) if labels and hasattr(model, "rare_words") else {}
        if rare:
            words = ", ".join(sorted({word for found in rare.values() for word in found}))
            notes.append(f"The model hardly saw the words {escape(words)}: use more common ones.")
        return notes


def read_own_labels(text: str) -> tuple[list[str], list[str]]:
    """Labels that somebody wrote.

    Args:
        text (`str`): labels with commas or line breaks between; blank for none.

    Returns:
        `tuple[list[str], list[str]]`: the labels, each once, and notes about them.

    Raises:
        ValueError: only commas, too many labels, or one that is too long; a sentence for the page.
    """
    written = [" ".join(_visible(part).split()) for part in text.replace("\n", ",").split(",")]
    written = [label for label in written if label]
    if text.strip() and not written:
        raise ValueError("There is no label between the commas: write words, as cup, spoon.")
    labels: dict[str, str] = {}
    repeated: dict[str, None] = {}
    for label in written:
        if label.casefold() in labels:
            repeated[label] = None
        labels.setdefault(label.casefold(), label)
    long = [label for label in written if len(label) > MAX_LABEL_LENGTH]
    if long:
        raise ValueError(
            f"The label {escape(long[0][:30])}… has {len(long[0])} characters, {MAX_LABEL_LENGTH} are taken: write a "
            "word or a few."
        )
    if len(labels) > MAX_LABELS:
        raise ValueError(f"There are {len(labels)} labels, {MAX_LABELS} are taken here: leave some out.")
    notes = [f"Written more than once, counted once: {escape(', '.join(repeated))}."] if repeated else []
    return list(labels.values()), notes


def escape(text: str) -> str:
    """Text that Markdown and HTML show as it is written."""
    return "".join(f"&#{ord(sign)};" if not (sign.isalnum() or sign in " ,.-·") else sign for sign in _visible(text))


def _visible(text: str) -> str:
    """Text without control characters and without signs that turn the direction of whatever follows."""
    joiners = "\u200c\u200d"  # of letters and of emoji
    return "".join(
        " " if unicodedata.category(sign) in ("Cc", "Cf") and sign not in joiners else sign for sign in text
    )


def _take_uploads_only(component: Any) -> Any:
    """Makes an image component refuse what is not an upload: Gradio's server would fetch what an address names.

    Methods of this one component are replaced; a subclass would make Gradio write a stub file into the package.
    """
    gr, keep_in_cache = _gradio(), component.async_move_resource_to_block_cache

    async def move_to_cache(path: str | Path | None) -> str | None:
        if path is not None and not os.path.isfile(path):
            raise gr.Error("Upload the photograph: addresses are not fetched here.", print_exception=False)
        return await keep_in_cache(path)

    def preprocess(payload: Any) -> str | None:
        """The file of the upload, not opened: whether it is an image is checked where messages are written."""
        if payload is None:
            return None
        # Gradio itself checks only what says that it is a file: {"path": ...} alone would pass.
        file, uploads = Path(payload.path or "").resolve(), Path(component.GRADIO_CACHE).resolve()
        if not file.is_relative_to(uploads) or not file.is_file():
            raise gr.Error("Upload the photograph: files of the server are not taken.", print_exception=False)
        return str(file)

    component.async_move_resource_to_block_cache, component.preprocess = move_to_cache, preprocess
    return component


def _gradio() -> Any:
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        import gradio
    except ImportError as error:
        raise ImportError('The page needs Gradio: run `pip install "taidpt[demo]"`.') from error
    return gradio


__all__ = ["PhotographTagger", "build_demo", "example_photographs", "launch_demo", "read_own_labels"]
