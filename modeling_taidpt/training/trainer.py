"""Learns prompts from captions: `transformers.Trainer` on caption features that a frozen CLIP computed once.

Source of the recipe: "Texts as Images in Prompt Tuning for Multi-Label Image Recognition" (CVPR 2023,
arXiv 2211.12739), sections 3 and 4.1.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import shutil
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.trainer import PREFIX_CHECKPOINT_DIR, TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, EvalPrediction, TrainOutput
from transformers.utils import SAFE_WEIGHTS_NAME, logging

from ..atomic import plain_disk_errors, staged_file, staged_folder
from ..backbones import keep_scalars_whole
from ..captions.labels import class_table, model_labeler
from ..captions.statistics import class_counts, describe_counts
from ..data.captions import warn_of_overlap
from ..data.collator import ImageCollator
from ..data.image_rows import LabelledImages, read_images
from ..evaluation.metrics import mean_average_precision
from ..features.cache import KeptFeatures
from ..hub import find_image_processor
from ..languages import default_template
from ..losses import get_loss, smooth_labels
from ..modeling_taidpt import TaiDptModel, TaiDptOutput
from .arguments import LOSS_TARGETS, TaiDptTrainingArguments, checked_arguments, without_selection
from .captions import TrainingCaptions
from .data import TrainingData
from .held_out import HeldOutMetrics
from .images import TrainingImages, is_image_data
from .prototype_loss import CaptionPrototypeTerm
from .publishing import PublishingMixin
from .report import training_report
from .resume import (
    DIGESTED,
    RECORD,
    STATES,
    FinishedRunMixin,
    RunRecord,
    base_sample,
    data_fingerprint,
    last_checkpoint,
    require_undamaged,
    whole_checkpoint,
    writing_into,
)
from .schedules import EPOCH_COSINE, epoch_cosine_schedule
from .setup import checked_model, forget_fits, settled_arguments

logger = logging.get_logger(__name__)

REPORTED = ("caption_map", "held_out_map", "template_cosine")  # and the former two after "zero_shot_"


class TaiDptTrainer(PublishingMixin, FinishedRunMixin, Trainer):
    r"""Learns the context vectors of a [`TaiDptModel`] from captions.

    Captions are labelled with the classes they name, those that name none are dropped, the others are encoded once
    and cached on disk (see [`CaptionFeatures`]). The checkpoint is chosen on held-out captions, never on images.
    Checkpoints during training hold the context vectors alone, and training goes on from one bit for bit.

    After training, the metrics of [`~TaiDptTrainer.train`], the log, `all_results.json` and `trainer_state.json` in
    the output folder hold `caption_map` and `zero_shot_caption_map` (mAP in percent on the held-out captions of the
    learned prompts and of "a photo of a {}."), `template_cosine` (mean cosine between the learned and the template's
    class embeddings) and, with evaluation images, `image_map` and `zero_shot_image_map`.

    What is not listed here, from `model_init` to `preprocess_logits_for_metrics`, is as in
    [`~transformers.Trainer`]; `compute_loss_func` replaces the loss on the scores, `compute_metrics` adds to the
    figures.

    Args:
        model ([`TaiDptModel`]): made by [`TaiDptModel.from_clip`].
        args ([`TaiDptTrainingArguments`], *optional*): what is not given in them is taken from the recipe that the
            model's base recommends, else from the paper's, as with `taidpt train`; see `args.recipe`.
        data_collator (`Callable`, *optional*): makes batches of features; pads them by default.
        train_dataset (`Dataset`, `IterableDataset`, `str` or `Path`): captions to learn from: a data set with a
            caption column, or a text, CSV, JSON, JSON lines or Parquet file; see [`read_captions`]. A stream is read
            into the feature cache first, as far as `max_captions` or `max_steps` ask for. Or labelled images: a data
            set with `image` and `labels`, or [`ImageFeatures`]; see `args.shots` and `args.known_labels`.
        eval_dataset (same, or a `dict` of them, *optional*): held-out captions; a share of `train_dataset` by
            default (`args.validation_size`). Of images none are held out by default.
        processing_class (`PreTrainedTokenizerBase` or processor, *optional*): the tokenizer; the model's by default.
        labeler (`Callable`, *optional*): finds the classes that captions name; by default the synonyms of a published
            class table where the model's labels are its classes, else the labels' own names.
        image_eval_dataset (`Dataset`, *optional*): rows of `image` or `pixel_values`, and `labels` (multi-hot, indices
            or names), measured once after training.
        image_processor (*optional*): makes pixels of them; the base's by default.
        image_transform (`Callable`, *optional*): augments each training image, a PIL image, anew in every epoch; no
            features are cached then.
        max_captions_per_class (`int` or `"auto"`, *optional*, defaults to `"auto"`): of a larger corpus so many are
            drawn for each class; rarer ones keep all. See [`caption_limit`]; `None` takes all.

    Raises:
        TypeError: If `args` or the captions are of the wrong kind.
        ValueError: If there is nothing to learn, no caption names a class, or images or their labels are bad.

    Example:
        >>> from modeling_taidpt import DEFAULT_CHECKPOINT, TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments
        >>> model = TaiDptModel.from_clip(DEFAULT_CHECKPOINT, labels=["dog", "cat"])
        >>> captions = ["A dog runs.", "A cat and a dog sleep.", "Two cats.", "A dog and a ball."]
        >>> args = TaiDptTrainingArguments("runs/pets", max_steps=2, per_device_train_batch_size=4, report_to="none")
        >>> trainer = TaiDptTrainer(model, args, train_dataset=captions)
        >>> trainer.train().global_step
        {'train_runtime': ...
        2
    """

    # Names of transformers' Trainer that are not public and are overridden or set here; a new version of transformers
    # has to be looked through for them: `_prepare_inputs` (features held on the device), `_save_checkpoint`, `_save`,
    # `_get_output_dir`, `_load_from_checkpoint` and `_load_best_model` (checkpoints hold the prompts alone),
    # `_created_lr_scheduler` (the paper's schedule), `loss_is_scaled_for_ga`, `callback_handler.callbacks` (the report
    # comes first).
    args: TaiDptTrainingArguments
    _data: TrainingData

    def __init__(
        self,
        model: TaiDptModel | None = None,
        args: TaiDptTrainingArguments | None = None,
        data_collator: Callable[[list[Any]], dict[str, Any]] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., TaiDptModel] | None = None,
        compute_loss_func: Callable[..., torch.Tensor] | None = None,
        compute_metrics: Callable[[EvalPrediction], dict] | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[Any, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., torch.Tensor] | None = None,
        labeler: Callable[[list[str]], Any] | None = None,
        image_eval_dataset: Any = None,
        image_processor: Any = None,
        image_transform: Callable[[Any], Any] | None = None,
        max_captions_per_class: int | str | None = "auto",
    ) -> None:
        """Label, split and encode the captions, or encode the images, then set up the trainer."""
        self.model_init = model_init
        reader = model if model is not None or model_init is None else self.call_model_init()
        args = checked_arguments(TaiDptTrainingArguments("tmp_trainer") if args is None else args)
        learns_images = is_image_data(eval_dataset if train_dataset is None else train_dataset, args.image_column)
        reader = checked_model(reader, args)
        args = settled_arguments(args, reader, learns_images)
        self.image_eval_dataset = image_eval_dataset
        self.image_processor = image_processor or getattr(processing_class, "image_processor", None)
        self._set_up(reader.to(args.device), args, processing_class, labeler, max_captions_per_class)
        if image_eval_dataset is not None:  # what is wrong with it is said before hours of training
            self.image_eval_dataset = read_images(image_eval_dataset, args.image_column)
            self.image_eval_dataset.labels(self.labels)
        if learns_images:
            self._data = TrainingImages(reader, args, self.image_processor, image_transform)
            self.image_processor = self._data.processor
        warn_of_overlap(train_dataset, image_eval_dataset)
        train_features, eval_features = self._data.read(train_dataset, eval_dataset)
        if eval_features is None and args.eval_strategy != "no":
            args = without_selection(args, self._data.kind)
        self.held_out_metrics = HeldOutMetrics(
            self._data.metric,
            lambda: {f"zero_shot_{self._data.metric}": self._zero_shot_map, "template_cosine": self.template_cosine()},
            compute_metrics,
            preprocess_logits_for_metrics,
            args.batch_eval_metrics,
        )
        args = self._with_selection(args, eval_features)
        with warnings.catch_warnings():  # transformers has no label smoothing for many labels: `compute_loss` does it
            warnings.filterwarnings("ignore", message="Label smoothing is not compatible")
            super().__init__(
                model=model,
                args=args,
                data_collator=data_collator or self._data.collate,
                train_dataset=train_features,
                eval_dataset=eval_features,
                processing_class=processing_class,
                model_init=model_init,
                compute_loss_func=compute_loss_func,
                compute_metrics=self.held_out_metrics,
                callbacks=callbacks,
                optimizers=optimizers,
                optimizer_cls_and_kwargs=optimizer_cls_and_kwargs,
                preprocess_logits_for_metrics=None
                if preprocess_logits_for_metrics is None
                else self.held_out_metrics.preprocess,
            )
        if self.is_fsdp_enabled:
            keep_scalars_whole(self.model)
            self._zero_shot_model()  # while the CLIP is whole
        self.loss_is_scaled_for_ga = compute_loss_func is not None  # otherwise the loss is a mean over its batch
        self.loss_function = get_loss(args.loss)
        # The labels of cached captions were looked at when they were made: no step waits to look again.
        self.loss_function.check_labels = not self._makes_batches_of_captions()
        # First, so that the report reaches TensorBoard and others before they close.
        self.callback_handler.callbacks.insert(0, _Report(self))

    def _with_selection(self, args: TaiDptTrainingArguments, held_out: Any) -> TaiDptTrainingArguments:
        """The arguments with the name that the figure which chooses the checkpoint has for this data.

        Raises:
            ValueError: If there will be no figure of that name; transformers finds out after the first epoch.
        """
        chosen = args.metric_for_best_model
        groups = [f"{name}_" for name in held_out] if isinstance(held_out, dict) else [""]
        if chosen == TrainingCaptions.metric:  # the default
            args = copy.copy(args)
            args.metric_for_best_model = chosen = groups[0] + self._data.metric
            if len(groups) > 1 and args.load_best_model_at_end:
                logger.warning(
                    f"The checkpoint is chosen by {chosen!r}: `metric_for_best_model` names another figure."
                )
        selects = args.load_best_model_at_end or args.save_strategy == "best"
        if held_out is None or chosen is None or not selects or self.held_out_metrics.compute_metrics is not None:
            return args
        names = {"loss"} if args.prediction_loss_only else self.held_out_metrics.names()
        known = {group + name for group in groups for name in names}
        if chosen.removeprefix("eval_") not in known:
            raise ValueError(
                f"`metric_for_best_model` is {chosen!r}, which is not measured: choose one of "
                f"{', '.join(sorted(known))}."
            )
        return args

    def call_model_init(self, trial: Any = None) -> Any:
        """As in transformers; a model with other labels than the data was read for is a `ValueError`."""
        model = super().call_model_init(trial)
        known = getattr(self, "labels", None)  # not before the first one
        if known is not None and model.config.labels != known:
            raise ValueError("`model_init` made a model of other labels, or in another order, than it did at first.")
        return model if known is None else forget_fits(model)  # a new one to train

    def _set_up(self, reader: Any, args: Any, processing_class: Any, labeler: Any, most: int | str | None) -> None:
        tokenizer = getattr(processing_class, "tokenizer", processing_class)
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            tokenizer = None
        self.tokenizer = reader.get_tokenizer(tokenizer)
        self.labels = reader.config.labels
        self.labeler = labeler or model_labeler(reader.config, args.labeling_method)
        self._data = TrainingCaptions(reader, args, self.tokenizer, self.labeler, most)
        self._prototype_term: CaptionPrototypeTerm | None = None
        self._zero_shot: TaiDptModel | None = None
        self._zero_shot_maps: dict[int, tuple[Any, float]] = {}
        self._zero_shot_map = float("nan")
        self._report: dict[str, float] = {}
        self._saves_checkpoint = False
        self._run: RunRecord | None = None
        self._base = base_sample(reader)  # while the CLIP is whole
        self._update_steps_per_epoch, self._num_epochs = 1, 1

    @property
    def training_captions(self) -> Any:
        """The captions that are learned from, with labels and without templates ([`CaptionFeatures`])."""
        return self._data.train_captions

    @property
    def corpus_labels(self) -> np.ndarray:
        """Labels `(captions, classes)` of all training captions, also of those that are not learned from."""
        return self._data.corpus_labels

    # ------------------------------------------------------------------ training

    def train(self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, **kwargs: Any) -> TrainOutput:
        """Learns the context vectors.

        Args:
            resume_from_checkpoint (`str` or `bool`, *optional*): a checkpoint folder, or `True` for the last whole one
                of the run in the output folder. It must be of the same labels, base and training data.
            trial (*optional*): as in [`~transformers.Trainer.train`].
            **kwargs: as in [`~transformers.Trainer.train`].

        Returns:
            `TrainOutput`: its metrics hold the report.

        Raises:
            ValueError: If there are fewer captions than a batch takes, there is no checkpoint to go on from, or it is
                of other labels, another base or other training data.
        """
        self._check_batches()
        forget_fits(self.model)  # before a checkpoint is loaded, which has none
        resume_from_checkpoint = self._start_or_resume(resume_from_checkpoint)
        if self.is_world_process_zero():
            logger.warning(self.args.describe_recipe())
        if self._makes_batches_of_captions():
            self._data.hold(self.train_dataset, self.eval_dataset)
        if self._data.train_captions is not None:
            self._report_class_counts(self._data.corpus_labels)
            self._prepare_prototypes()
        output = super().train(resume_from_checkpoint, trial=trial, **kwargs)
        output.metrics.update(self._report)
        if self.is_world_process_zero():
            with writing_into(self.args.output_dir):
                self.save_metrics("train", output.metrics)
        self.save_state()
        return output

    def _prepare_prototypes(self) -> None:
        """Computes the prototypes of the training captions where the arguments weigh their term."""
        if self.args.caption_prototype_weight:
            centering = self.args.caption_prototype_centering
            self._prototype_term = CaptionPrototypeTerm(self._data.train_captions, centering, self.args.device)

    def _note_labels(self, model: TaiDptModel) -> None:
        """Notes in a configuration how captions were labelled, and the labels that none of them names."""
        config, captions = model.config, self._data.train_captions
        if captions is None:
            return
        if self.args.label_column is None:
            config.class_table = class_table(self.labeler, config)
        # A shared context that saw no sentence of a label was learned on others; templates are sentences of it.
        others = not config.class_specific_context and not self.args.add_templates
        unnamed = [label for label, named in zip(config.labels, captions.labels.any(axis=0), strict=True) if not named]
        config.label_origin = config.label_origin | dict.fromkeys(unnamed, "shared" if others else "template")

    def _report_class_counts(self, labels: np.ndarray) -> None:
        """Logs how many captions of the corpus name each class, and keeps it in `class_counts.json`."""
        if self.is_world_process_zero():
            counts = class_counts(labels)  # (classes,)
            logger.warning(describe_counts(self.labels, counts))
            with staged_file(Path(self.args.output_dir) / "class_counts.json") as path:
                path.write_text(json.dumps(dict(zip(self.labels, counts.tolist(), strict=True)), indent=2) + "\n")

    def _check_batches(self) -> None:
        if self.train_dataset is None:
            raise ValueError("There is nothing to learn from: give `train_dataset`.")
        needed = self.args.train_batch_size * self.args.world_size
        if self.args.dataloader_drop_last and len(self.train_dataset) < needed:
            raise ValueError(
                f"{len(self.train_dataset)} {self._data.kind}s do not fill one batch of {needed}: lower "
                "`per_device_train_batch_size` or set `dataloader_drop_last=False`."
            )

    def find_checkpoint(self) -> str | None:
        """The last whole checkpoint of the run in the output folder.

        Checkpoints that an earlier run left there are not looked at, and neither are damaged ones.

        Returns:
            `str` or `None`: its folder.

        Raises:
            ValueError: nobody knows which checkpoints are of the run; one sentence.
        """
        return last_checkpoint(self.args.output_dir, self._state_files())

    def _state_files(self) -> tuple[str, ...]:
        """The files that go with the prompts in each checkpoint; frameworks that share them out have their own."""
        has_own = self.is_deepspeed_enabled or self.is_fsdp_enabled or self.args.save_only_model
        return () if has_own else STATES

    def _start_or_resume(self, checkpoint: str | bool | None) -> str | None:
        """Looks at the checkpoint to go on from, or names a new run; returns the checkpoint."""
        ours = RunRecord(uuid.uuid4().hex, self.labels, self._base, data_fingerprint(self.train_dataset))
        if checkpoint is True:
            checkpoint = self.find_checkpoint()
            if checkpoint is None:
                raise ValueError(
                    f"There is no whole checkpoint of this run in {self.args.output_dir!r} to go on from: train "
                    "without `resume_from_checkpoint`, or name a folder."
                )
        if checkpoint:
            checkpoint = str(checkpoint)
            record = RunRecord.read(checkpoint)
            if record is None:
                raise ValueError(f"{checkpoint!r} is not a checkpoint of this trainer: it has no readable {RECORD}.")
            ours.require_same(record, checkpoint)
            if not whole_checkpoint(checkpoint, record, self._state_files()):
                raise ValueError(
                    f"The checkpoint {checkpoint!r} is damaged or was not written to its end: name another one."
                )
            ours = dataclasses.replace(ours, run=record.run)
        self._run = ours
        if self.is_world_process_zero():
            ours.write(self.args.output_dir)
        return checkpoint or None

    def set_initial_training_values(self, *args: Any, **kwargs: Any) -> tuple:
        """Notes the length of an epoch, on which the paper's schedule depends."""
        values = super().set_initial_training_values(*args, **kwargs)
        self._num_epochs, self._update_steps_per_epoch = values[0], values[1]
        return values

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Makes the paper's schedule, or the one that `lr_scheduler_type` names."""
        if self.lr_scheduler is not None or self.args.lr_scheduler_type != EPOCH_COSINE:
            return super().create_scheduler(num_training_steps, optimizer)
        self.lr_scheduler = epoch_cosine_schedule(
            self.optimizer if optimizer is None else optimizer,
            self._update_steps_per_epoch,
            self._num_epochs,
            self.args.learning_rate,
            self.args.warmup_learning_rate,
            self.args.warmup_epochs,
        )
        self._created_lr_scheduler = True
        return self.lr_scheduler

    def training_step(self, model: nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """One step on a batch whose features [`~TaiDptTrainer.augment_features`] has changed."""
        inputs = self.augment_features(self._prepare_inputs(inputs))
        return super().training_step(model, inputs, *args, **kwargs)

    def augment_features(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A hook for subclasses: changes a training batch on the device, before the model sees it.

        Args:
            batch (`dict`): of captions `caption_embeds` `(batch, dim)`, `token_embeds` `(batch, length, dim)`,
                `attention_mask` `(batch, length)`; of images `image_embeds` `(batch, dim)` and `dense_embeds`
                `(batch, height, width, dim)`, or `pixel_values`; and `labels` `(batch, classes)`.

        Returns:
            `dict`: a batch of the same kind; unchanged here.
        """
        return batch

    def extra_loss(self, outputs: TaiDptOutput) -> torch.Tensor | None:
        """A hook for subclasses: what is added to the weighted loss on the scores.

        Args:
            outputs ([`TaiDptOutput`]): of a batch, with `class_embeddings` `(classes, dim)` of both branches.

        Returns:
            `torch.Tensor` or `None`: a scalar; here the caption-prototype term times `caption_prototype_weight`, where
            the arguments ask for it.
        """
        if self._prototype_term is None:
            return None
        return self.args.caption_prototype_weight * self._prototype_term(outputs.class_embeddings)  # ()

    def _makes_batches_of_captions(self) -> bool:
        """Whether batches hold features of captions, and nobody else changes them on the way."""
        return isinstance(self._data, TrainingCaptions) and self.data_collator == self._data.collate

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The batch on the device; rows of features that are held there become the features."""
        inputs = super()._prepare_inputs(inputs)
        held = self._data.on_device
        return inputs if held is None else held.gather(inputs)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss on both scores (paper, equation 6; or those that `loss_on` names) and [`~TaiDptTrainer.extra_loss`].

        Args:
            model (`nn.Module`): the model, possibly wrapped.
            inputs (`dict`): a batch of features with `labels` `(batch, classes)`.
            return_outputs (`bool`, *optional*, defaults to `False`): also returns the model's output.
            num_items_in_batch (*optional*): for a `compute_loss_func`.

        Returns:
            `torch.Tensor`: a scalar in fp32, or a tuple of it and the output.
        """
        labels = inputs["labels"]  # (batch, classes)
        features = {name: value for name, value in inputs.items() if name != "labels"}
        options = {"prompt_chunk_size": self.args.prompt_chunk_size, "return_dict": True}
        outputs = model(**features, return_class_embeddings=True, **options)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        else:
            scores = [getattr(outputs, name) for name in LOSS_TARGETS[self.args.loss_on]]  # (batch, classes) each
            labels = smooth_labels(labels, self.args.label_smoothing_factor, self.args.loss)  # (batch, classes)
            loss = sum(self.loss_function(logits.float(), labels) for logits in scores)  # ()
        loss = self.args.loss_weight * loss
        extra = self.extra_loss(outputs)
        if extra is not None:
            loss = loss + extra  # ()
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Nothing is counted: transformers' estimate assumes that the whole model runs on every batch."""
        return 0

    # ------------------------------------------------------------------ evaluation

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Measures the model on captions: loss, `caption_map`, `zero_shot_caption_map`, `template_cosine`.

        Args:
            eval_dataset (*optional*): captions as in the constructor, or [`CaptionFeatures`]; the held-out ones by
                default.
            ignore_keys (`list[str]`, *optional*): as in [`~transformers.Trainer.evaluate`].
            metric_key_prefix (`str`, *optional*, defaults to `"eval"`): what the names of the figures begin with.

        Returns:
            `dict[str, float]`: the figures.
        """
        if eval_dataset is not None and not isinstance(eval_dataset, dict):
            eval_dataset = self._read_eval(eval_dataset)
        chosen = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(chosen, str):
            chosen = self.eval_dataset[chosen]
        if isinstance(chosen, KeptFeatures):
            self._zero_shot_map = self._score_zero_shot(chosen)
        return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def _read_eval(self, data: Any) -> Any:
        """Features of data to evaluate on, or the name of one of several `eval_dataset`."""
        is_name = isinstance(data, str) and isinstance(self.eval_dataset, dict) and data in self.eval_dataset
        return data if is_name else self._data.read_eval(data)

    @contextlib.contextmanager
    def _every_caption(self) -> Iterator[None]:
        """Has the loaders made meanwhile leave out nothing: the recipe drops incomplete batches, in training alone."""
        drop_last, self.args.dataloader_drop_last = self.args.dataloader_drop_last, False
        try:
            yield
        finally:
            self.args.dataloader_drop_last = drop_last

    def get_eval_dataloader(self, eval_dataset: Any = None) -> DataLoader:
        """Loader of captions or images to evaluate on, every one of them; raw ones are encoded first."""
        if eval_dataset is not None:
            eval_dataset = self._read_eval(eval_dataset)
        with self._every_caption():
            return super().get_eval_dataloader(eval_dataset)

    def get_test_dataloader(self, test_dataset: Any) -> DataLoader:
        """Loader of captions or images to predict, every one of them; raw ones are encoded first."""
        test_dataset = self._data.read_eval(test_dataset)
        with self._every_caption():
            return super().get_test_dataloader(test_dataset)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, torch.Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
        """Scores a batch; returns its loss, merged scores `(batch, classes)` and labels `(batch, classes)`."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        loss = loss.detach().mean()
        if prediction_loss_only:
            return loss, None, None
        return loss, outputs.logits.detach().float(), inputs["labels"].detach()

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """As in [`~transformers.Trainer`]; the class embeddings are computed once for all batches."""
        name = type(self.model).main_input_name
        self.model.main_input_name = self._data.main_input_name  # what `include_for_metrics=["inputs"]` takes
        try:
            with self.model.cached_class_embeddings():
                output = super().evaluation_loop(*args, **kwargs)
        finally:
            self.model.main_input_name = name
        # what `preprocess_logits_for_metrics` made of the scores, where there is one
        return output._replace(predictions=self.held_out_metrics.users_part(output.predictions))

    @torch.no_grad()
    def template_cosine(self) -> float:
        """Mean cosine between the learned class embeddings of both branches and those of "a photo of a {}."."""
        blank = torch.ones(1, self.model.config.embedding_dim, device=self.args.device)  # (1, dim)
        caption = {"caption_embeds": blank, "token_embeds": blank[None], "attention_mask": blank[:, :1]}
        options = {"return_class_embeddings": True, "return_dict": True}
        # through the forward pass, before which FSDP gathers the parameters
        learned = torch.stack(self.model.eval()(**caption, **options).class_embeddings)
        template = self._zero_shot_model().class_embeddings_global  # (classes, dim)
        return float((learned.float() * template.float()).sum(dim=-1).mean())

    def _zero_shot_model(self) -> TaiDptModel:
        """The template on the same CLIP, made once."""
        clip, config = self.model.clip, self.model.config
        if self._zero_shot is None or self._zero_shot.clip is not clip:
            scales = ("logit_scale", "text_spatial_scale", "image_spatial_scale", "local_weight")
            images = ("dense_features", "flip", "multi_crop")
            options = {name: getattr(config, name) for name in (*scales, *images, "class_names", "class_table")}
            labels = config.labels
            zero_shot = TaiDptModel.zero_shot(clip, labels, None, self.tokenizer, **options)
            self._zero_shot, self._zero_shot_maps = zero_shot.to(self.args.device), {}
        return self._zero_shot

    @torch.no_grad()
    def _score_zero_shot(self, features: KeptFeatures) -> float:
        """Percent mAP of the template on captions; it does not change with training and is computed once."""
        zero_shot = self._zero_shot_model()
        kept = self._zero_shot_maps.get(id(features))
        if kept is None:
            scores, labels = [], []
            for batch in self.get_eval_dataloader(features):
                batch = self._prepare_inputs(batch)
                truth = batch.pop("labels")  # (batch, classes)
                with self.compute_loss_context_manager():
                    logits = zero_shot(**batch, return_dict=True).logits.float()  # (batch, classes)
                logits, truth = self.accelerator.gather_for_metrics((logits, truth))
                scores.append(logits.cpu())
                labels.append(truth.cpu())
            value = mean_average_precision(torch.cat(scores), torch.cat(labels))["map"]
            kept = self._zero_shot_maps[id(features)] = (features, value)
        return kept[1]

    @torch.no_grad()
    def evaluate_images(self, image_eval_dataset: Any = None) -> dict[str, float]:
        """Measures the learned prompts and the template on photographs.

        The template's scores pool with CLIP's positional embedding, as CLIP does.

        Args:
            image_eval_dataset (`Dataset`, *optional*): the constructor's by default.

        Returns:
            `dict[str, float]`: `image_map` and `zero_shot_image_map` in percent.

        Raises:
            ValueError: If there are no images, or a row lacks an image or labels.
        """
        dataset = self.image_eval_dataset if image_eval_dataset is None else image_eval_dataset
        if dataset is None:
            raise ValueError("There are no evaluation images: give `image_eval_dataset`.")
        images = read_images(dataset, self.args.image_column)
        dataset = LabelledImages(images, images.labels(self.labels) == 1)
        if self.image_processor is None:
            self.image_processor = find_image_processor(self.model.config)
        collator = ImageCollator(self.image_processor)
        loader = DataLoader(dataset, batch_size=min(self.args.eval_batch_size, 64), collate_fn=collator)
        with self.model.cached_class_embeddings():
            parts = list(self._score_images(self.accelerator.prepare(loader)))
        # (images, classes) each
        learned, template, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        return {
            "image_map": mean_average_precision(learned, labels)["map"],
            "zero_shot_image_map": mean_average_precision(template, labels)["map"],
        }

    def _score_images(self, loader: DataLoader) -> Iterator[tuple[torch.Tensor, ...]]:
        """Scores of the learned prompts, of the template, and labels, each `(batch, classes)`."""
        learned, zero_shot = self.model.eval(), self._zero_shot_model()
        for batch in loader:
            batch = self._prepare_inputs(batch)
            with self.compute_loss_context_manager():
                pooled, dense = learned.encode_images(batch["pixel_values"])
                scores = learned(image_embeds=pooled, dense_embeds=dense, return_dict=True).logits  # (batch, classes)
                if learned.config.pool_with_positions != zero_shot.config.pool_with_positions:
                    pooled, dense = zero_shot.encode_images(batch["pixel_values"])
                features = {"image_embeds": pooled, "dense_embeds": dense}
                baseline = zero_shot(**features, return_dict=True).logits  # (batch, classes)
            gathered = self.accelerator.gather_for_metrics((scores.float(), baseline.float(), batch["labels"]))
            yield tuple(values.cpu() for values in gathered)

    def report(self) -> dict[str, float]:
        """Measures the model as it is, logs the figures and says when the template is better.

        Returns:
            `dict[str, float]`: `caption_map`, `zero_shot_caption_map`, `template_cosine`, and with evaluation images
            `image_map` and `zero_shot_image_map`.
        """
        figures = {"template_cosine": self.template_cosine()}
        if self.eval_dataset is not None:
            measured = self.evaluate()
            figures = {
                name.removeprefix("eval_"): value for name, value in measured.items() if name.endswith(REPORTED)
            }
        if self.image_eval_dataset is not None:
            figures.update(self.evaluate_images())
        held_out = f"{self._data.held_out} held-out {self._data.kind}s"
        for name, on in ((self._data.metric, held_out), ("image_map", "the evaluation images")):
            learned, template = figures.get(name), figures.get(f"zero_shot_{name}")
            if learned is not None and template is not None and learned < template:
                words = default_template(self.model.config.language)
                than = f"{learned:.1f} mAP against {template:.1f}"
                logger.warning(f"The learned prompts are worse than the template {words!r} on {on}: {than}.")
        self.log(dict(figures))
        return figures

    # ------------------------------------------------------------------ saving and loading

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        # prompts, two moments of each in fp32, and what else is written
        needed = 12 * sum(value.numel() for value in model.parameters() if value.requires_grad) + 2**17
        self._saves_checkpoint = True
        is_first = self.is_world_process_zero()
        watched = writing_into(self.args.output_dir, folder) if is_first else contextlib.nullcontext()
        try:
            with watched, plain_disk_errors(folder, needed):
                if self.args.should_save:  # of an earlier run: one that is cut short would look whole; or damaged
                    shutil.rmtree(folder, ignore_errors=True)
                self.accelerator.wait_for_everyone()
                super()._save_checkpoint(model, trial)
                if self.args.should_save and self._run is not None:
                    self._run.write(folder, DIGESTED)
        finally:
            self._saves_checkpoint = False

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Saves the model with tokenizer and image processor, as in [`~transformers.Trainer`]; a full disk is said."""
        with plain_disk_errors(self.args.output_dir if output_dir is None else output_dir):
            super().save_model(output_dir, _internal_call)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, torch.Tensor] | None = None) -> None:
        """Saves the contexts for a checkpoint of the run, else the model with its tokenizer and image processor."""
        if not self.args.should_save:
            return
        folder = Path(self.args.output_dir if output_dir is None else output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        state_dict = self.model.state_dict() if state_dict is None else state_dict
        if self._saves_checkpoint:
            prompts = {name: value.contiguous() for name, value in state_dict.items() if not name.startswith("clip.")}
            with staged_file(folder / SAFE_WEIGHTS_NAME) as path:
                safetensors.torch.save_file(prompts, path, metadata={"format": "pt"})
            config = copy.deepcopy(self.model.config)
            config.prompts_only = True
            config.save_pretrained(folder)
            if self._run is not None:
                self._run.write(folder, [SAFE_WEIGHTS_NAME])
            self._save_arguments(folder)
        else:
            with staged_folder(folder) as staged:  # the model joins in: all of it, or none
                self.model.save_pretrained(folder, prompts_only=self.args.save_prompts_only, state_dict=state_dict)
                self.tokenizer.save_pretrained(staged)
                if self.image_processor is not None:  # else the model saved its own
                    self.image_processor.save_pretrained(staged)
                self._save_arguments(staged)

    def _save_arguments(self, folder: Path) -> None:
        """Saves the training arguments without what is secret: the folder may be pushed."""
        args = copy.copy(self.args)
        args.hub_token = None
        torch.save(args, folder / TRAINING_ARGS_NAME)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Loads the contexts of a checkpoint into the model."""
        model = self.model if model is None else model
        path = Path(resume_from_checkpoint) / SAFE_WEIGHTS_NAME
        require_undamaged(path)
        prompts = {k: v for k, v in safetensors.torch.load_file(path).items() if not k.startswith("clip.")}
        expected = {k: v.shape for k, v in model.state_dict().items() if not k.startswith("clip.")}
        if {k: v.shape for k, v in prompts.items()} != expected:
            raise ValueError(
                f"The checkpoint {str(resume_from_checkpoint)!r} does not fit the model: it holds "
                f"{ {k: tuple(v.shape) for k, v in prompts.items()} }, the model "
                f"{ {k: tuple(v) for k, v in expected.items()} }."
            )
        if self.is_fsdp_enabled:  # every process takes its part of them
            from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

            set_model_state_dict(model, prompts, options=StateDictOptions(full_state_dict=True, strict=False))
        else:
            model.load_state_dict(prompts, strict=False)

    def _load_best_model(self) -> None:
        logger.info(f"The best checkpoint is {self.state.best_model_checkpoint} ({self.state.best_metric:.4f}).")
        self._load_from_checkpoint(self.state.best_model_checkpoint)


class _Report(TrainerCallback):
    """Notes what the model knows when training starts, and makes the report when the best checkpoint is loaded."""

    def __init__(self, trainer: TaiDptTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer._note_labels(self.trainer.model)  # which `model_init` may have made just now

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        trainer = self.trainer
        trainer._report = trainer.report()
        labels, corpus = trainer.model.config.labels, trainer._data.describe()
        report = training_report(trainer.args, labels, trainer.state.global_step, corpus, trainer._report)
        trainer.model.training_report = report  # for the model card


__all__ = ["TaiDptTrainer", "TaiDptTrainingArguments"]
