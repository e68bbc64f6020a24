"""What a trainer does with the Hub: it looks for the repository before any training, pushes, and writes the card."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from ..model_card import has_edited_card, write_card
from ..pushing import check_target, pushing


class PublishingMixin:
    """Pushes of a [`~transformers.Trainer`] of a [`TaiDptModel`]."""

    def init_hf_repo(self: Any, token: str | None = None, private: bool | None = None) -> None:
        """Checks, before any training, that there is somewhere to push to; the repository is made at the first push.

        Args:
            token (`str`, *optional*): of who pushes; `args.hub_token` by default.
            private (`bool`, *optional*): `args.hub_private_repo` by default.

        Raises:
            OSError: the Hub cannot be reached or refuses; one sentence.
        """
        if self.is_world_process_zero():
            name = self.args.hub_model_id or Path(self.args.output_dir).absolute().name
            private = self.args.hub_private_repo if private is None else private
            self.hub_model_id = check_target(name, private, token or self.args.hub_token)
            self.push_in_progress = None

    def push_to_hub(
        self: Any,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Pushes the model as in transformers; see [`~transformers.Trainer.push_to_hub`].

        Raises:
            OSError: the Hub cannot be reached, refuses or stops in the middle; one sentence.
        """
        if self.hub_model_id is None:
            self.init_hf_repo(token, private)
        with self._pushing(token, revision, private):
            return super().push_to_hub(commit_message, blocking, token, revision, private, **kwargs)

    def _push_from_checkpoint(self: Any, checkpoint_folder: str) -> None:
        with self._pushing():
            super()._push_from_checkpoint(checkpoint_folder)

    def _pushing(
        self: Any, token: str | None = None, revision: str | None = None, private: bool | None = None
    ) -> contextlib.AbstractContextManager[Any]:
        if not self.is_world_process_zero():
            return contextlib.nullcontext()
        private = self.args.hub_private_repo if private is None else private
        return pushing(
            str(self.hub_model_id), private, token or self.args.hub_token, revision or self.args.hub_revision
        )

    def create_model_card(
        self: Any, language: str | None = None, license: str | None = None, tags: Any = None, **kwargs: Any
    ) -> None:
        """Renders the model card into the output folder; a card that was edited there is left as it is.

        Args:
            language (`str`, *optional*): of the captions.
            license (`str`, *optional*): of the checkpoint.
            tags (`str` or `list[str]`, *optional*): further tags.
            **kwargs: `model_name` replaces the name of the repository; the others are not needed here.
        """
        folder = Path(self.args.output_dir)
        if self.is_world_process_zero() and not has_edited_card(folder):
            name = self.hub_model_id or kwargs.get("model_name") or folder.resolve().name
            write_card(self.model, folder, name, language=language, license=license, tags=tags)


__all__ = ["PublishingMixin"]
