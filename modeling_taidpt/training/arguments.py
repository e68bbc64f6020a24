"""Training arguments whose defaults are the recipe of the paper."""

from __future__ import annotations

import atexit
import copy
import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import torch
from accelerate.utils import get_int_from_env
from transformers import TrainingArguments
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames
from transformers.utils import logging

from ..captions.labeler import METHODS
from ..losses import LOSSES, SMOOTHED
from .schedules import EPOCH_COSINE

logger = logging.get_logger(__name__)

PAPER_RECIPE, RECOMMENDED = "paper", "recommended"
REPLACES = {"num_train_epochs": "max_steps"}  # of a recipe, by what is given
FEATURE_DTYPES = ("float32", "float16", "bfloat16")
CAPTION_LOSSES = tuple(name for name in LOSSES if name != "partial_asl")  # captions name classes, they deny none
LOSS_TARGETS = {  # the scores of TaiDptOutput that a loss is on, by the name of the option
    "both": ("logits_global", "logits_local"),
    "global": ("logits_global",),
    "local": ("logits_local",),
    "merged": ("logits",),
}


RANGES: dict[str, tuple[float, float]] = {  # least and largest value of arguments of transformers
    "learning_rate": (0, 1e3),
    "num_train_epochs": (0, 1e6),
    "max_steps": (-1, 1e9),
    "per_device_train_batch_size": (1, 1e9),
    "per_device_eval_batch_size": (1, 1e9),
    "gradient_accumulation_steps": (1, 1e6),
    "weight_decay": (0, 1e3),
    "max_grad_norm": (0, 1e9),
    "dataloader_num_workers": (0, 1e4),
    "seed": (0, 2**32 - 1),
    "data_seed": (0, 2**32 - 1),
} | dict.fromkeys(("logging_steps", "save_steps", "eval_steps", "warmup_steps"), (0, 1e9))


@dataclass
class TaiDptTrainingArguments(TrainingArguments):
    r"""[`~transformers.TrainingArguments`] with the paper's recipe as defaults, and the options of TaI-DPT.

    The recipe (arXiv 2211.12739, section 4.1, and the published code): SGD with momentum 0.9 and weight decay 5e-4,
    batches of 512 with the last incomplete one left out, 20 epochs, learning rate 1e-4 (VOC2007, COCO; 1e-3 for
    NUS-WIDE), one warm-up epoch at 1e-5, then a cosine that moves once per epoch; no gradient clipping; 9 times
    "a photo of a {}." and 80 templates per class among the captions; ranking loss on both scores.

    Every argument of [`~transformers.TrainingArguments`] works as usual; an optimizer or `lr_scheduler_type` given
    explicitly replaces the paper's. On several devices the batch of 512 is that of each device.

    Args:
        load_best_model_at_end (`bool`, *optional*):
            Whether to keep the checkpoint of the best score instead of the last one; by default where
            `eval_strategy` scores each one that `save_strategy` saves.
        lr_scheduler_type (`str`, *optional*, defaults to `"epoch_cosine"`):
            `"epoch_cosine"` is the paper's; all schedules of transformers work too.
        warmup_learning_rate (`float`, *optional*, defaults to 1e-5):
            Constant learning rate of the warm-up epochs of `"epoch_cosine"`.
        warmup_epochs (`int`, *optional*, defaults to 1):
            Number of warm-up epochs of `"epoch_cosine"`.
        loss (`str`, *optional*, defaults to `"ranking"`):
            `"ranking"`, `"bce"`, `"focal"`, `"asl"` or `"soft_ce"`, on the global and on the local scores; for images
            also `"partial_asl"`, with labels -1, 0 (unknown) and 1.
        loss_on (`str`, *optional*, defaults to `"both"`):
            The scores that the loss is on: `"both"` (its sum), `"global"`, `"local"` or `"merged"`.
        loss_weight (`float`, *optional*, defaults to 1.0):
            Weight of that loss.
        caption_prototype_weight (`float`, *optional*, defaults to 0.0):
            Weight of the caption-prototype term (not in the paper): the mean over classes of `1 - cos(G_c, p_c)` plus
            that of `1 - cos(H_c, p_c)`, where `p_c` is the normalised mean of the global features of the training
            captions that mention class c. Classes that no caption mentions are left out; templates do not count.
        caption_prototype_centering (`list[float]`, *optional*, defaults to `[0.0, 0.0]`):
            How much of the normalised mean of all captions is taken off the prototypes of the global and of the local
            branch; see [`CaptionFeatures.class_prototypes`].
        add_templates (`bool`, *optional*, defaults to `True`):
            Whether to mix 89 template sentences per class, labelled with that class alone, among the captions.
        caption_column (`str`, *optional*, defaults to `"caption"`):
            Column of the data sets that holds the captions.
        label_column (`str`, *optional*):
            Column that holds labels, used instead of labelling the captions: multi-hot rows, or lists of class
            indices or names. Lists of 0 and 1 as long as there are classes are read as multi-hot. For images
            `"labels"` by default; rows of -1, 0 and 1 are partial labels.
        image_column (`str`, *optional*, defaults to `"image"`):
            Column of data sets of images that holds the images.
        shots (`int`, *optional*):
            Images per class to learn from, drawn with the seed (see [`sample_few_shot`]); all by default.
        known_labels (`float`, *optional*):
            Share of the labels of images that stays known, drawn with the seed (see [`drop_labels`]).
        partial_label_file (`str`, *optional*):
            File with the labels of the training images in their order, -1, 0 or 1 (see [`read_partial_labels`]).
        labeling_method (`str`, *optional*, defaults to `"forms"`):
            How captions are labelled, `"forms"` or `"wordnet"`; see [`CaptionLabeler`].
        max_captions (`int`, *optional*):
            Captions read from the training data, the first ones; all by default. A stream without `max_captions` is
            read to its end or, with `max_steps`, until it has given one caption for every item of every batch.
        validation_size (`float`, *optional*, defaults to 0.05):
            Captions held out of training to choose the checkpoint when the trainer gets no `eval_dataset`: a share
            below 1, or a number of distinct captions. Equal captions stay on one side. 0 trains on all captions, as
            the paper does, and keeps the last checkpoint.
        feature_cache_dir (`str`, *optional*):
            Where caption features are cached; `taidpt_caption_features` in the cache of `datasets` by default. It is
            never emptied.
        feature_dtype (`str`, *optional*, defaults to `"float32"`):
            Precision of the cached features: `"float32"`, `"float16"` or `"bfloat16"`.
        features_on_device (`bool`, *optional*):
            Whether the cached caption features are held in the device's memory while learning, so that a step gathers
            them there. By default on a GPU where they take at most half of its free memory.
        pad_to_multiple_of (`int`, *optional*):
            Pads the captions of a batch to a multiple of this length. Batches then have few shapes, which
            `torch_compile` and CUDA graphs want; without it they are as long as their longest caption.
        prompt_chunk_size (`int`, *optional*):
            Classes whose prompts go through the text tower at a time; the backward pass computes each chunk again, so
            that memory is that of one chunk. By default more than 1,024 classes do, with `activation_checkpointing`
            (`gradient_checkpointing` of older transformers) fewer too. As many as there are classes keeps everything.
        save_prompts_only (`bool`, *optional*, defaults to `False`):
            Whether [`~TaiDptTrainer.save_model`] leaves the CLIP out. Checkpoints during training always do.
        recipe (`str`, *optional*, defaults to `"recommended"`):
            `"recommended"`: the trainer takes what is not given here from the recipe that the model's base recommends,
            where it has one. `"paper"`: the defaults here. [`~TaiDptTrainingArguments.from_recipe`] sets the name of
            its recipe, for the log.
    """

    # Defaults of the paper.
    learning_rate: float = field(default=1e-4, metadata={"help": "Initial learning rate."})
    num_train_epochs: float = field(default=20, metadata={"help": "Number of epochs, warm-up included."})
    per_device_train_batch_size: int = field(default=512, metadata={"help": "Captions per device and step."})
    per_device_eval_batch_size: int = field(default=512, metadata={"help": "Held-out captions per device and step."})
    optim: OptimizerNames | str = field(default="sgd", metadata={"help": "Optimizer."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of the context vectors."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Norm to clip gradients to; 0 clips nothing."})
    lr_scheduler_type: SchedulerType | str = field(
        default=EPOCH_COSINE, metadata={"help": "`epoch_cosine` (the paper's) or a schedule of transformers."}
    )
    dataloader_drop_last: bool = field(default=True, metadata={"help": "Leave out the last incomplete batch."})
    # Defaults that suit training from cached features.
    eval_strategy: str = field(default="epoch", metadata={"help": "When to score the held-out captions."})
    save_strategy: str = field(default="epoch", metadata={"help": "When to save the context vectors."})
    logging_steps: float = field(default=10, metadata={"help": "Steps between two lines of the log."})
    load_best_model_at_end: bool | None = field(
        default=None, metadata={"help": "Keep the best checkpoint, not the last; by default if all are scored."}
    )
    metric_for_best_model: str | None = field(
        default="caption_map", metadata={"help": "Figure of held-out captions that chooses the checkpoint."}
    )
    logging_nan_inf_filter: bool = field(default=False, metadata={"help": "Wait for every loss and look at it."})
    remove_unused_columns: bool = field(default=False, metadata={"help": "Cached features have no unused column."})
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "All contexts get gradients."})
    # Options of TaI-DPT.
    warmup_learning_rate: float = field(default=1e-5, metadata={"help": "Constant rate of the warm-up epochs."})
    warmup_epochs: int = field(default=1, metadata={"help": "Number of warm-up epochs."})
    loss: str = field(default="ranking", metadata={"help": f"One of {', '.join(LOSSES)}."})
    loss_on: str = field(default="both", metadata={"help": f"One of {', '.join(LOSS_TARGETS)}."})
    loss_weight: float = field(default=1.0, metadata={"help": "Weight of the loss."})
    caption_prototype_weight: float = field(default=0.0, metadata={"help": "Weight of the caption-prototype term."})
    caption_prototype_centering: list[float] = field(
        default_factory=lambda: [0.0, 0.0],
        metadata={"help": "Mean caption feature taken off global, local prototypes."},
    )
    add_templates: bool = field(default=True, metadata={"help": "Mix template sentences among the captions."})
    caption_column: str = field(default="caption", metadata={"help": "Column with the captions."})
    label_column: str | None = field(default=None, metadata={"help": "Column with labels, instead of labelling."})
    image_column: str = field(default="image", metadata={"help": "Column with the images."})
    shots: int | None = field(default=None, metadata={"help": "Images per class to learn from."})
    known_labels: float | None = field(default=None, metadata={"help": "Share of the labels that stays known."})
    partial_label_file: str | None = field(default=None, metadata={"help": "File of labels -1, 0 or 1."})
    labeling_method: str = field(default="forms", metadata={"help": f"One of {', '.join(METHODS)}."})
    max_captions: int | None = field(default=None, metadata={"help": "Captions read from the training data."})
    validation_size: float = field(default=0.05, metadata={"help": "Share or number of captions held out."})
    feature_cache_dir: str | None = field(default=None, metadata={"help": "Where caption features are cached."})
    feature_dtype: str = field(default="float32", metadata={"help": f"One of {', '.join(FEATURE_DTYPES)}."})
    features_on_device: bool | None = field(default=None, metadata={"help": "Hold cached features on the device."})
    pad_to_multiple_of: int | None = field(default=None, metadata={"help": "Caption lengths are multiples of it."})
    prompt_chunk_size: int | None = field(default=None, metadata={"help": "Classes encoded at a time, twice."})
    save_prompts_only: bool = field(default=False, metadata={"help": "Leave the CLIP out of the saved model."})
    recipe: str = field(default=RECOMMENDED, metadata={"help": "`recommended` (the base's own), or `paper`."})

    _given: ClassVar[set[str]]  # names of the arguments that are given, of each instance

    def __new__(cls, *args: Any, **kwargs: Any) -> TaiDptTrainingArguments:
        """Note which arguments are given, so that a recipe fills in the others."""
        self = super().__new__(cls)
        names = [entry.name for entry in fields(cls) if entry.init]
        vars(self)["_given"] = {*names[: len(args)], *kwargs}
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        """Note, too, what is set later."""
        super().__setattr__(name, value)
        if getattr(self, "_is_made", False):
            super().__setattr__("_given", self._given | {name})  # a copy may share the old set

    def __post_init__(self) -> None:
        """Check the options of TaI-DPT and fill in what depends on others.

        Raises:
            ValueError: If an option has a value that it cannot have; the option is named.
        """
        self._check_numbers()
        if str(getattr(self.optim, "value", self.optim)) == "sgd" and self.optim_args is None:
            self.optim_args = "momentum=0.9"
        if self.load_best_model_at_end is None:
            self.load_best_model_at_end = self._scores_checkpoints()
            if not self.load_best_model_at_end and self.eval_strategy != "no":
                logger.warning("`eval_strategy` does not score each checkpoint that is saved: the last one is kept.")
        epoch_cosine = self.lr_scheduler_type == EPOCH_COSINE
        if epoch_cosine:  # not one of transformers' schedules, which the parent insists on
            self.lr_scheduler_type = SchedulerType.CONSTANT
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # there is nothing to pin for, and torch warns in every loader
            # told so, Accelerate joins the processes of a launcher; else each would train alone, into one folder
            launched = "LOCAL_RANK" in os.environ and get_int_from_env(["WORLD_SIZE"], 1) > 1
            self.use_cpu = self.use_cpu or launched
        elif self.accelerator_config is None and self.dataloader_pin_memory:
            self.accelerator_config = {"non_blocking": True}  # batches are copied while the device computes
        super().__post_init__()
        if self.world_size > 1:
            atexit.unregister(_wait_for_threads)  # once is enough
            atexit.register(_wait_for_threads)
        if epoch_cosine:
            self.lr_scheduler_type = EPOCH_COSINE
        self._check_options()
        on_cpu = self.use_cpu or not torch.accelerator.is_available()
        knows = torch.backends.mkldnn.is_available()  # other builds of torch cannot tell
        if self.bf16 and on_cpu and knows and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
            logger.warning(
                "This CPU has no bfloat16 units: `bf16=True` is many times slower than fp32 here, leave it out."
            )
        self._is_made = True

    def _scores_checkpoints(self) -> bool:
        """Whether there is a score for each checkpoint, by which the best can be chosen."""
        evaluates, saves = (str(getattr(each, "value", each)) for each in (self.eval_strategy, self.save_strategy))
        if saves == "best" or evaluates != saves:
            return saves == "best"
        every = self.eval_steps or self.logging_steps
        return evaluates == "epoch" or (evaluates == "steps" and self.save_steps % every == 0)

    def _check_numbers(self) -> None:
        """Raises a `ValueError` where a number is not finite or not plausible; transformers checks few of its own."""
        for name in (entry.name for entry in fields(self) if entry.init):
            value = getattr(self, name)
            least, most = RANGES.get(name, (-math.inf, math.inf))
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                continue
            if not math.isfinite(value):
                raise ValueError(f"`{name}` is {value}: give a finite number.")
            if not least <= value <= most:
                raise ValueError(f"`{name}` is {value}: give a number from {least:g} to {most:g}.")

    def _check_options(self) -> None:
        for name, choices in (
            ("loss", tuple(LOSSES)),
            ("loss_on", tuple(LOSS_TARGETS)),
            ("labeling_method", METHODS),
            ("feature_dtype", FEATURE_DTYPES),
        ):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}: choose one of {', '.join(choices)}.")
        for name in (
            "max_captions",
            "pad_to_multiple_of",
            "prompt_chunk_size",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` is {value}: give a number, at least 1.")
        for name in (
            "warmup_epochs",
            "warmup_learning_rate",
            "loss_weight",
            "caption_prototype_weight",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` is {getattr(self, name)}: it cannot be negative.")
        if self.shots is not None and self.shots < 1:
            raise ValueError(f"`shots` is {self.shots}: give a number of images per class, at least 1.")
        if self.known_labels is not None and not 0 < self.known_labels <= 1:
            raise ValueError(f"`known_labels` is {self.known_labels}: give a share above 0 and at most 1, as 0.1.")
        if self.label_smoothing_factor and self.loss not in SMOOTHED:
            raise ValueError(
                f"`label_smoothing_factor` does not go with loss={self.loss!r}: choose {', '.join(SMOOTHED)}, or 0."
            )
        if self.neftune_noise_alpha is not None:
            raise ValueError(
                "`neftune_noise_alpha` is for embeddings of token ids, and items are cached features: leave it out."
            )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(
                f"`train_sampling_strategy` is {self.train_sampling_strategy!r}, and items are cached features, not "
                "token ids: choose 'random' or 'sequential'."
            )
        centering = self.caption_prototype_centering
        if len(centering) != 2 or not all(0 <= value < 1 for value in centering):
            raise ValueError(
                f"`caption_prototype_centering` is {centering}: give two numbers from 0 to below 1, for both branches."
            )
        size = self.validation_size
        if size < 0 or (size >= 1 and size != int(size)):
            raise ValueError(f"`validation_size` is {size}: give a share below 1 or a whole number of captions.")

    @classmethod
    def from_recipe(cls, recipe: Mapping[str, Any], **overrides: Any) -> TaiDptTrainingArguments:
        """Takes the training arguments of a recommended recipe, as a base may carry one.

        Args:
            recipe (`Mapping`): `config.recommended_recipe`, `{"model": {...}, "training": {...}}`, of which
                `"training"` is used. An optional `"name"` is what the log calls it.
            **overrides: training arguments, as `output_dir`, that win over the recipe's.

        Returns:
            [`TaiDptTrainingArguments`]: what neither names has the paper's value.

        Raises:
            ValueError: If the recipe has no training arguments or one that does not exist.
        """
        if not isinstance(recipe, Mapping) or not isinstance(recipe.get("training"), Mapping):
            raise ValueError(f"The recipe {recipe!r} has no 'training' arguments: give {{'training': {{...}}}}.")
        training = dict(recipe["training"])
        for given, replaced in REPLACES.items():
            if given in overrides and replaced not in overrides:
                training.pop(replaced, None)
        arguments = {**training, **overrides}
        known = {entry.name for entry in fields(cls) if entry.init}
        unknown = sorted(set(arguments) - known)
        if unknown:
            raise ValueError(f"{unknown[0]!r} in the recipe is not a training argument: see TaiDptTrainingArguments.")
        arguments.setdefault("recipe", str(recipe.get("name", "custom")))
        return cls(**arguments)

    def with_recipe(self, recipe: Mapping[str, Any]) -> TaiDptTrainingArguments:
        """New arguments: those that were given here, the others from a recipe.

        Args:
            recipe (`Mapping`): as for [`~TaiDptTrainingArguments.from_recipe`].

        Returns:
            [`TaiDptTrainingArguments`]: where all arguments were given, as a parser does, those count that differ from
            the defaults.

        Raises:
            ValueError: as there.
        """
        names = {entry.name for entry in fields(self) if entry.init} - {"recipe"}
        given = names & self._given
        if given == names:
            default = type(self)(self.output_dir)
            given = {name for name in names if getattr(self, name) != getattr(default, name)} | {"output_dir"}
        return self.from_recipe(recipe, **{name: getattr(self, name) for name in given})

    def describe_recipe(self) -> str:
        """Names the recipe and what differs from the paper's, for the log."""
        optimizer = str(getattr(self.optim, "value", self.optim))
        schedule = str(getattr(self.lr_scheduler_type, "value", self.lr_scheduler_type))
        length = f"{self.max_steps} steps" if self.max_steps > 0 else f"{self.num_train_epochs:g} epochs"
        text = (
            f"Recipe: {self.recipe} ({optimizer}, learning rate {self.learning_rate:g}, {schedule}, {length}, "
            f"batch {self.per_device_train_batch_size}, {self.loss_weight:g} x {self.loss} loss"
        )
        if self.caption_prototype_weight:
            text += f" + {self.caption_prototype_weight:g} x caption-prototype term"
        return text + ")."


def _wait_for_threads() -> None:
    """Lets the threads of gloo drop the tensors of the last exchange between processes.

    They are signalled as done before that, and dropping takes Python's lock: a thread that waits for it while Python
    ends aborts the process (seen in one of 20 runs, a barrier or the end of the group changes little).
    """
    time.sleep(0.2)


def checked_arguments(args: Any) -> TaiDptTrainingArguments:
    """The arguments as they are.

    Raises:
        TypeError: If they are of another class.
    """
    if isinstance(args, TaiDptTrainingArguments):
        return args
    what = "TrainingArguments of transformers" if isinstance(args, TrainingArguments) else type(args).__name__
    raise TypeError(f"`args` are {what}: make TaiDptTrainingArguments, with the same arguments.")


def without_selection(args: TaiDptTrainingArguments, kind: str) -> TaiDptTrainingArguments:
    """A copy of the arguments that evaluates nothing and keeps the last checkpoint."""
    logger.warning(f"No {kind}s are held out: nothing is evaluated and the last checkpoint is kept.")
    args = copy.copy(args)
    args.eval_strategy = type(args.eval_strategy)("no")
    args.load_best_model_at_end = args.do_eval = args.eval_on_start = False
    if args.save_strategy == "best":
        args.save_strategy = type(args.save_strategy)("epoch")
    return args


__all__ = [
    "CAPTION_LOSSES",
    "FEATURE_DTYPES",
    "LOSS_TARGETS",
    "PAPER_RECIPE",
    "TaiDptTrainingArguments",
    "checked_arguments",
    "without_selection",
]
