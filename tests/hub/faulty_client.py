"""What a user meets where a Hub refuses, or stops in the middle: `python faulty_client.py OUT`, findings as JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)

from tests.hub.hub_client import LABELS, TOKEN, make_tagger, sentence  # noqa: E402


def out_of_order(**parts: int) -> None:
    """Lets parts of the Hub answer with an error."""
    import urllib.request

    body = json.dumps({name.replace("_", "/"): status for name, status in parts.items()}).encode()
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/failing", body, method="POST")).close()


def push_in_vain(model: Any) -> dict[str, Any]:
    """Pushes that fail: what is said, and what is left on the Hub."""
    from huggingface_hub import HfApi

    api, found = HfApi(token=TOKEN), {}
    import huggingface_hub.utils._http as http

    wait, http.time.sleep = http.time.sleep, lambda seconds: None  # the client would wait between its tries
    for name, parts in {
        "storage": {"lfs_": 500},
        "refused storage": {"lfs_": 413},
        "commit": {"commit_main": 503},
        "preupload": {"preupload": 502},
        "full": {"repos_create": 507},
        "many": {"repos_create": 429},
    }.items():
        out_of_order(**parts)
        found[name] = sentence(lambda: model.push_to_hub("org/vain", token=TOKEN))
        out_of_order()
        found[f"{name} left"] = api.repo_exists("org/vain")
    out_of_order(commit_main=500)
    found["trained"] = sentence(lambda: train(model, "org/trained"))
    out_of_order()
    http.time.sleep = wait
    found["trained left"] = api.repo_exists("org/trained")
    found["wrong token"] = sentence(lambda: train(model, "org/trained", hub_token="hf_wrong"))
    found["own token"] = sentence(lambda: train(model, "trained"))
    return found


def train(model: Any, repository: str, **options: Any) -> None:
    """Trains for a step and pushes."""
    from modeling_taidpt import TaiDptTrainer, TaiDptTrainingArguments

    output = Path(os.environ["HF_HOME"]) / "run"
    more = {"hub_token": TOKEN, "add_templates": False, "validation_size": 4, "feature_cache_dir": str(output / "c")}
    more |= {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "save_strategy": "no", "eval_strategy": "no"}
    more |= {"load_best_model_at_end": False, "max_steps": 1, "per_device_train_batch_size": 4}
    arguments = TaiDptTrainingArguments(str(output), push_to_hub=True, hub_model_id=repository, **(more | options))
    captions = [f"A {label} {place}." for label in LABELS for place in ("here", "there", "at home", "at night")]
    import datasets

    trainer = TaiDptTrainer(model, arguments, train_dataset=datasets.Dataset.from_dict({"caption": captions}))
    trainer.train()
    trainer.push_to_hub()


def privacy(model: Any) -> dict[str, Any]:
    """Private onto public and back, and prompts alone onto a whole checkpoint."""
    from huggingface_hub import HfApi

    from modeling_taidpt import TaiDptModel

    api, found = HfApi(token=TOKEN), {}
    model.push_to_hub("org/public", token=TOKEN)
    found["private onto public"] = sentence(lambda: model.push_to_hub("org/public", token=TOKEN, private=True))
    model.push_to_hub("org/private", token=TOKEN, private=True)
    found["public onto private"] = sentence(lambda: model.push_to_hub("org/private", token=TOKEN, private=False))
    found["still private"] = api.model_info("org/private").private
    model.clip.push_to_hub("org/base", token=TOKEN)
    prompts = TaiDptModel.from_clip("org/base", labels=LABELS, num_context_tokens=4, token=TOKEN)
    found["token is nowhere"] = TOKEN not in prompts.config.to_json_string()
    prompts.push_to_hub("org/public", token=TOKEN, prompts_only=True)
    found["prompts files"] = sorted(api.list_repo_files("org/public"))
    prompts.config.base_model_name_or_path = str(Path(os.environ["HF_HOME"]).resolve())
    found["prompts on a folder"] = sentence(lambda: prompts.push_to_hub("org/x", token=TOKEN, prompts_only=True))
    prompts.push_to_hub("org/whole", token=TOKEN)
    path = api.hf_hub_download("org/whole", "config.json")
    found["base of another machine"] = json.loads(Path(path).read_text())["base_model_name_or_path"]
    return found


def read_in_vain() -> dict[str, Any]:
    """A Hub that answers with errors; nothing of it is waited for in vain."""
    from modeling_taidpt import TaiDptModel

    found: dict[str, Any] = {}
    TaiDptModel.from_pretrained("org/whole")  # in the cache, but no file that is optional
    import huggingface_hub.utils._http as http

    wait, http.time.sleep = http.time.sleep, lambda seconds: None
    for status in (500, 429, 503):
        out_of_order(resolve=status, api_models=status)
        found[str(status)] = sentence(lambda: TaiDptModel.from_pretrained("org/other"))
    http.time.sleep = wait
    out_of_order()
    found["typo"] = sentence(lambda: TaiDptModel.from_pretrained("runs/petz"))
    return found


def down() -> dict[str, Any]:
    """The Hub is gone, and the cache holds a part."""
    from huggingface_hub import constants

    from modeling_taidpt import TaiDptModel

    constants.ENDPOINT = "http://127.0.0.1:9"
    start = time.monotonic()
    model = TaiDptModel.from_pretrained("org/whole")
    model.save_pretrained(Path(os.environ["HF_HOME"]) / "copy")
    return {"seconds": time.monotonic() - start, "labels": model.config.labels}


def commands(model: Any) -> dict[str, Any]:
    """`taidpt push` in this process: exit code and messages."""
    from typer.testing import CliRunner

    from taidpt_cli.app import app

    folder = Path(os.environ["HF_HOME"]) / "model"
    model.save_pretrained(folder)
    import huggingface_hub.utils._http as http

    wait, http.time.sleep = http.time.sleep, lambda seconds: None
    found: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for name, words, parts in (
            ("cut", [str(folder), "org/cut"], {"lfs_": 500}),
            ("cut json", [str(folder), "org/cut", "--json"], {"lfs_": 500}),
            ("private", [str(folder), "org/public", "--private"], {}),
            ("typo", [str(folder) + "z", "org/x"], {}),
            ("typo name", ["runs/petz", "org/x"], {}),
        ):
            out_of_order(**parts)
            result = CliRunner().invoke(app, ["push", *words])
            found[name] = [result.exit_code, result.output]
            out_of_order()
    http.time.sleep = wait
    return found


if __name__ == "__main__":
    model = make_tagger().model
    os.environ["HF_TOKEN"] = TOKEN or ""
    found = {"vain": push_in_vain(model), "privacy": privacy(model), "read": read_in_vain()}
    found |= {"commands": commands(model), "down": down()}
    Path(sys.argv[1]).write_text(json.dumps(found))
