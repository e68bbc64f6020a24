"""What a saved model is: weights, configuration, tokenizer, image processor, card, and the code that runs it."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from huggingface_hub import CommitInfo
from transformers.dynamic_module_utils import get_relative_import_files, get_relative_imports
from transformers.utils import CONFIG_NAME, logging

from .atomic import Obsolete, scratch_folder, staged_file, staged_folder
from .configuration_checks import check_word_counts
from .configuration_taidpt import TaiDptConfig
from .graph_export import save_graph
from .hub import find_image_processor, sample_weights
from .model_card import (
    EXAMPLE_NAME,
    REPORT_NAME,
    add_evaluation,
    card_folder,
    has_edited_card,
    known_report,
    refresh_card,
    write_card,
)
from .onnx_graphs import GRAPH_FILE
from .origins import Origin, is_remote_code, origins
from .pushing import PUSH_OPTIONS, TOKENIZER, push_folder
from .rare_words import find_word_counts
from .stored_weights import WEIGHT_FILE, digest_weights, old_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel as _Base
else:
    _Base = object

logger = logging.get_logger(__name__)

AUTO_MAP = {
    "AutoConfig": "configuration_taidpt.TaiDptConfig",
    "AutoModel": "modeling_taidpt.TaiDptModel",
    "AutoModelForImageClassification": "modeling_taidpt.TaiDptModel",
}
PIPELINE_MODULE = "multi_label_image_classification"
CUSTOM_PIPELINES = {
    "multi-label-image-classification": {
        "impl": f"{PIPELINE_MODULE}.MultiLabelImageClassificationPipeline",
        "pt": ["AutoModelForImageClassification"],
        "type": "image",
    }
}
HANDLER = "handler.py"
CALIBRATION = ("score_scale", "score_bias", "score_thresholds", "score_calibration")


class RepositoryMixin(_Base):
    """Saving and pushing of [`TaiDptModel`], the only class that mixes it in."""

    config: TaiDptConfig
    training_report: dict[str, Any] | None
    _code_origin: ClassVar[Origin | None] = None  # of code that runs from a repository

    def save_pretrained(
        self,
        save_directory: str | Path,
        prompts_only: bool = False,
        include_code: bool = True,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """Saves the model as a whole repository.

        Beside the weights and the configuration are the tokenizer and the image processor, the model card, and the
        code that runs the model where this package is not installed (`trust_remote_code=True`) and on Inference
        Endpoints. A card that was edited (its first comment is gone) is left as it is. Files are written aside and
        then moved into place, so that an interruption leaves no half-written one.

        Args:
            save_directory (`str`): folder, made if it does not exist.
            prompts_only (`bool`, *optional*, defaults to `False`): leaves the CLIP and its tokenizer out; the
                configuration names the CLIP.
            include_code (`bool`, *optional*, defaults to `True`): whether to write the code.
            push_to_hub (`bool`, *optional*, defaults to `False`): also pushes the model, to `repo_id` (the folder's
                name by default), with the options of [`~TaiDptModel.push_to_hub`].
            **kwargs: as in transformers.

        Raises:
            ValueError: `prompts_only` for a model whose base has no name, or that is baked; or the configuration was
                given another number of labels.
            OSError: the Hub cannot be reached or refuses.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise ValueError(f"{str(folder)!r} is a file: give a folder to save the model in.")
        self._require_own_labels()
        push = {name: kwargs.pop(name) for name in (*PUSH_OPTIONS, "repo_id") if name in kwargs}
        name = push.pop("repo_id", folder.resolve().name)
        if prompts_only:
            state_dict = kwargs.pop("state_dict", None) or self.state_dict()
            kwargs["state_dict"] = self._prompts(state_dict)
            kwargs["max_shard_size"] = "1000GB"  # one file, in which loading looks for them
        if kwargs.get("distributed_checkpoint"):  # every rank writes its part into the same folder
            super().save_pretrained(folder, **kwargs)
            return
        is_main = kwargs.get("is_main_process", True)
        obsolete = _older_files(folder, prompts_only or self.config.baked) if is_main else None
        with staged_folder(folder, obsolete) as staging:
            has_pipeline = include_code and copy_code(staging, self._code_origin)
            with self._stored_configuration(prompts_only, include_code, has_pipeline):
                super().save_pretrained(staging, **kwargs)
            _note_digest(staging)
            if is_main:
                self._save_companions(staging, prompts_only)
                if not has_edited_card(folder):
                    write_card(self, staging, name, has_example=(folder / EXAMPLE_NAME).is_file())
        if push_to_hub:
            self.push_to_hub(name, prompts_only=prompts_only, **push)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        prompts_only: bool = False,
        max_shard_size: int | str | None = "50GB",
        tags: list[str] | None = None,
        processors: tuple[Any, ...] = (),
        example: str | Path | None = None,
        **kwargs: Any,
    ) -> CommitInfo:
        """Pushes everything that [`~TaiDptModel.save_pretrained`] writes to the Hub, in one commit.

        A card that was edited on the Hub is left as it is. A model that comes from beside an ONNX graph
        (`taidpt export MODEL --in-place`), or whose CLIP does, is pushed with one of its present weights.

        Args:
            repo_id (`str`): repository, made if it does not exist.
            prompts_only (`bool`, *optional*, defaults to `False`): leaves the CLIP out.
            max_shard_size (`int` or `str`, *optional*, defaults to `"50GB"`): as in transformers.
            tags (`list[str]`, *optional*): further tags of the card.
            processors (`tuple`, *optional*): a tokenizer or image processor to push instead of the model's own.
            example (`str` or `Path`, *optional*): a JPEG file that the card shows, as of
                [`~modeling_taidpt.serving.plots.save_figure`]; nothing is shown of whoever pushes without it.
            **kwargs: `commit_message`, `commit_description`, `private`, `token`, `revision`, `create_pr`, as in
                transformers.

        Returns:
            `CommitInfo`: of the commit.

        Raises:
            TypeError: an option is unknown.
            ValueError: as [`~TaiDptModel.save_pretrained`].
            OSError: the Hub cannot be reached or refuses.
        """
        unknown = sorted(set(kwargs) - set(PUSH_OPTIONS))
        if unknown:
            raise TypeError(f"`{unknown[0]}` is not an option of push_to_hub: see its documentation for the names.")
        base = self.config.base_model_name_or_path
        is_folder = base is not None and (os.path.isabs(base) or os.path.isdir(base))
        if is_folder and prompts_only:
            raise ValueError(
                f"The base of these prompts is a folder of this machine ({base!r}): push it and learn or load the "
                "prompts with `base_model_name_or_path=` its repository, or push the whole model."
            )
        with scratch_folder() as folder:
            if example is not None:
                shutil.copyfile(example, folder / EXAMPLE_NAME)
            options = {"prompts_only": prompts_only, "max_shard_size": max_shard_size, "repo_id": repo_id}
            self.save_pretrained(folder, **options)
            if is_folder:  # nobody else has it, and its path is nobody's business
                _forget_base(folder)
            for processor in filter(None, processors):
                processor.save_pretrained(folder)
            if not prompts_only and comes_with_graph(self):
                add_graph(self, folder)
            return push_folder(folder, repo_id, tags=tags, **kwargs)

    def record_evaluation(
        self,
        dataset_name: str,
        metric_value: float,
        metric_name: str = "mAP, merged score",
        metric_type: str = "mean_average_precision",
        dataset_type: str = "images",
        baseline: float | None = None,
    ) -> None:
        """Notes a measured figure, which the model card then shows.

        Args:
            dataset_name (`str`): what was measured on, as "VOC2007 test, 4,952 photographs".
            metric_value (`float`): the figure; mAP in percent.
            metric_name (`str`, *optional*, defaults to `"mAP, merged score"`): what the card calls it.
            metric_type (`str`, *optional*, defaults to `"mean_average_precision"`): its identifier.
            dataset_type (`str`, *optional*, defaults to `"images"`): identifier of the data set, on the Hub if it
                is there.
            baseline (`float`, *optional*): the same figure of "a photo of a {}." on the same CLIP.
        """
        report = known_report(self) or {"labels": self.config.labels}
        figure: dict[str, Any] = {
            "dataset_name": dataset_name,
            "metric_value": float(metric_value),
            "metric_name": metric_name,
        }
        figure |= {"metric_type": metric_type, "dataset_type": dataset_type}
        figure["baseline"] = None if baseline is None else float(baseline)
        self.training_report = add_evaluation(report, figure)

    def _require_loaded(self) -> None:
        """Raises a `ValueError` where the CLIP of the prompts is not loaded, or they are of other labels."""
        self._require_own_labels()
        if self.config.prompts_only:
            raise ValueError(
                "The prompts of this model are on a random CLIP: load it with `TaiDptModel.from_pretrained`, which "
                "fetches the CLIP that they were learned on."
            )

    def _require_own_labels(self) -> None:
        """Raises a `ValueError` where the configuration was given another number of labels than the model has."""
        learner: Any = getattr(self, "prompt_learner", None)
        count = len(self.class_embeddings_global) if learner is None else learner.num_classes
        if count != self.config.num_labels:
            raise ValueError(
                f"The configuration was given {self.config.num_labels} labels and the model has {count}: "
                "`model.with_labels([...])` makes a model of other labels."
            )

    def _prompts(self, state_dict: dict[str, Any]) -> dict[str, Any]:
        """What is not of the CLIP."""
        if self.config.baked:
            raise ValueError("A baked model has no prompts to save alone: leave `prompts_only` out.")
        if not self.config.base_model_name_or_path:
            raise ValueError(
                "`prompts_only=True` needs `config.base_model_name_or_path`: without it nobody could find the "
                "CLIP again."
            )
        return {key: value for key, value in state_dict.items() if not key.startswith("clip.")}

    @contextlib.contextmanager
    def _stored_configuration(self, prompts_only: bool, include_code: bool, has_pipeline: bool) -> Iterator[None]:
        """What only a stored configuration says, on the live one for as long as it is stored."""
        values: dict[str, Any] = {"prompts_only": prompts_only}
        if prompts_only:
            values["base_model_sample"] = sample_weights(self.clip.state_dict())
        values["processor_class"] = "CLIPProcessor"  # what `AutoProcessor` makes of tokenizer and image processor
        values["auto_map"] = dict(AUTO_MAP) if include_code else None
        values["custom_pipelines"] = CUSTOM_PIPELINES if has_pipeline else None
        if not is_remote_code():  # on a live configuration this would make transformers ask for `trust_remote_code`
            vars(self.config).pop("custom_pipelines", None)
        before = {name: vars(self.config).get(name) for name in values}
        _set(self.config, values)
        try:
            yield
        finally:
            _set(self.config, before)

    def _save_companions(self, folder: Path, prompts_only: bool) -> None:
        """The image processor, and unless they are found beside the base, tokenizer and word counts."""
        find_image_processor(self.config).save_pretrained(folder)
        if prompts_only or self.config.baked:
            return
        try:
            self.get_tokenizer().save_pretrained(folder)
        except ValueError as error:  # none that fits: the model still scores its own labels
            logger.warning(f"No tokenizer is saved: {error}")
        counts = find_word_counts(origins(self.config), self.config.word_counts)
        if counts is not None:
            shutil.copyfile(counts, folder / str(self.config.word_counts))


def comes_with_graph(model: RepositoryMixin) -> bool:
    """Whether there is a graph where a model, or the CLIP that it was made on, comes from."""
    return any(origin.find(GRAPH_FILE) is not None for origin in origins(model.config))


def add_graph(model: RepositoryMixin, folder: Path) -> None:
    """Makes the graph of a model that was just saved; where what makes it is not installed, a warning says so.

    Args:
        model ([`TaiDptModel`]): the model.
        folder (`Path`): where it was saved, whole.
    """
    try:
        save_graph(model, folder)
    except ImportError as error:
        logger.warning(f"The model is saved without {GRAPH_FILE}, by which it tags faster: {error}")


def store_calibration(folder: Path, config: TaiDptConfig) -> None:
    """Writes what was fitted to the scores of a saved model into its configuration, and says so in its card.

    Args:
        folder (`Path`): holds the model.
        config ([`TaiDptConfig`]): the fitted one.
    """
    rewrite_config(folder, {name: getattr(config, name) for name in CALIBRATION})
    refresh_card(folder)


def rewrite_config(folder: Path, changes: dict[str, Any]) -> None:
    """Replaces entries of a stored configuration; the others and their order stay as they are."""
    path = folder / CONFIG_NAME
    stored = json.loads(path.read_text(encoding="utf-8")) | changes
    with staged_file(path) as staged:
        staged.write_text(json.dumps(dict(sorted(stored.items())), indent=2) + "\n", encoding="utf-8")


def _set(config: TaiDptConfig, values: dict[str, Any]) -> None:
    """Sets attributes of a configuration; those that are `None` are absent."""
    for name, value in values.items():
        setattr(config, name, value)
        if value is None:
            delattr(config, name)


def copy_code(folder: Path, origin: Origin | None = None) -> bool:
    """Copies the modules of the model and of the pipeline, flat, and the handler of Inference Endpoints.

    Args:
        folder (`Path`): where to.
        origin (`Origin`, *optional*): of code that runs from a repository: its pipeline and handler are there.

    Returns:
        `bool`: whether the pipeline is among them.
    """
    model = Path(__file__).with_name("modeling_taidpt.py")
    for file in (model, *get_relative_import_files(model)):
        shutil.copyfile(file, folder / Path(file).name)
    if not is_remote_code():
        pipeline = Path(str(importlib.import_module(f"{__package__}.pipelines.{PIPELINE_MODULE}").__file__))
        for file in (pipeline, *get_relative_import_files(pipeline), card_folder() / HANDLER):
            shutil.copyfile(file, folder / Path(file).name)
        return True
    wanted, copied = [f"{PIPELINE_MODULE}.py", HANDLER], set()
    while origin is not None and wanted:  # a module that transformers has not loaded is not in its cache of modules
        name = wanted.pop()
        path = None if name in copied else origin.find(name)
        if path is not None:
            shutil.copyfile(path, folder / name)
            wanted += [f"{module}.py" for module in get_relative_imports(path)]
        copied.add(name)
    return (folder / f"{PIPELINE_MODULE}.py").is_file()


def _forget_base(folder: Path) -> None:
    """Takes the folder of the base out of a stored configuration; the card keeps its name."""
    rewrite_config(folder, {"base_model_name_or_path": None})


def _note_digest(folder: Path) -> None:
    """Lets a stored configuration know the weights that are stored beside it."""
    files = sorted(folder.glob("*.safetensors"))
    if files and (folder / CONFIG_NAME).is_file():
        rewrite_config(folder, {"weights_digest": digest_weights(files)})


def _stored_word_counts(folder: Path) -> set[str]:
    """The name of the word counts beside an older save, if it has some."""
    try:
        name = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))["word_counts"]
        check_word_counts(name)
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return set()
    return {name} - {None}


def _older_files(folder: Path, without_tokenizer: bool) -> Obsolete:
    """Which files of an older save go: other weights, and what spoke of them and is not written anew."""
    counts = _stored_word_counts(folder)

    def names(saved: set[str]) -> set[str]:
        if not any(WEIGHT_FILE.fullmatch(name) for name in saved):
            return set()
        companions = {REPORT_NAME, GRAPH_FILE}
        if without_tokenizer or "tokenizer.json" in saved:
            companions |= {*TOKENIZER, *counts}
        return companions | old_weights(folder)

    return names


__all__ = [
    "AUTO_MAP",
    "CUSTOM_PIPELINES",
    "RepositoryMixin",
    "add_graph",
    "comes_with_graph",
    "copy_code",
    "store_calibration",
]
