"""What a user does with a Hub, in an interpreter of its own: `python hub_client.py STEP`, findings as JSON.

HF_ENDPOINT and HF_HOME must be set before huggingface_hub is imported, so the tests run this file as a program.
"""

from __future__ import annotations

import builtins
import json
import os
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
if __name__ == "__main__":  # its own folder would make `tests` look like top-level modules
    sys.path.pop(0)

TASK = "multi-label-image-classification"
TOKEN = os.environ.get("LOOPBACK_TOKEN")
IMAGE = str(ROOT / "examples" / "images" / "cat.jpg")
LABELS = ["dog", "traffic light", "cat"]


def sentence(call: Any) -> str:
    """The message of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__mro__[-4].__name__ if isinstance(error, OSError) else type(error).__name__}: {error}"
    return "no error"


def make_tagger() -> Any:
    """A pipeline of a small random model."""
    sys.path.insert(0, str(ROOT))
    from transformers import CLIPImageProcessor, pipeline

    import modeling_taidpt
    from tests.conftest import make_clip

    model = modeling_taidpt.TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    return pipeline(TASK, model=model, tokenizer=model.get_tokenizer(), image_processor=processor)


def push() -> dict[str, Any]:
    """Pushes and pulls everything with the package installed."""
    tagger = make_tagger()
    from huggingface_hub import HfApi, ModelCard
    from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer, pipeline

    from modeling_taidpt import TaiDptModel

    api, model, found = HfApi(token=TOKEN), tagger.model, {}
    # a model alone makes a repository that a pipeline loads, without any flag
    model.push_to_hub("org/tagger", token=TOKEN, commit_message="A tagger", tags=["pets"])
    pulled = pipeline(TASK, model="org/tagger")
    found["expected"], found["pulled"] = tagger(IMAGE), pulled(IMAGE)
    found["own labels"] = tagger(IMAGE, candidate_labels=["horse"])
    found["files"] = sorted(api.list_repo_files("org/tagger"))
    found["card"] = str(ModelCard.load("org/tagger"))
    found["title"] = api.list_repo_commits("org/tagger")[0].title
    # a pipeline, its parts, a branch, a proposal
    tagger.push_to_hub("org/pipe", token=TOKEN)
    found["pipe"] = pipeline(TASK, model="org/pipe")(IMAGE)
    found["pipe files"] = sorted(api.list_repo_files("org/pipe"))
    for part in (tagger.tokenizer, tagger.image_processor):
        part.push_to_hub("org/parts", token=TOKEN)
    found["parts"] = [type(auto.from_pretrained("org/parts")).__name__ for auto in (AutoTokenizer, AutoImageProcessor)]
    AutoProcessor.from_pretrained("org/tagger").push_to_hub("org/processor", token=TOKEN)
    found["processor"] = type(AutoProcessor.from_pretrained("org/processor")).__name__
    model.bake().push_to_hub("org/tagger", token=TOKEN, revision="baked")
    found["baked"] = pipeline(TASK, model="org/tagger", revision="baked")(IMAGE)
    found["proposal"] = model.push_to_hub("org/tagger", token=TOKEN, create_pr=True).pr_num
    # a card shows a picture as long as it is given
    model.push_to_hub("org/shown", token=TOKEN, example=IMAGE)
    found["example"] = [str(ModelCard.load("org/shown")), "example.jpg" in api.list_repo_files("org/shown")]
    model.push_to_hub("org/shown", token=TOKEN)
    found["no example"] = [str(ModelCard.load("org/shown")), "example.jpg" in api.list_repo_files("org/shown")]
    # a card that somebody edited on the Hub stays; shards give way to a single file and back
    edited = ModelCard("---\nlicense: mit\n---\n\nMy words.\n")
    api.upload_file(path_or_fileobj=str(edited).encode(), path_in_repo="README.md", repo_id="org/pipe")
    model.push_to_hub("org/pipe", token=TOKEN, max_shard_size="1MB")
    found["sharded"] = pipeline(TASK, model="org/pipe")(IMAGE)
    found["sharded files"] = sorted(f for f in api.list_repo_files("org/pipe") if "safetensors" in f)
    found["kept card"] = str(ModelCard.load("org/pipe", token=TOKEN))
    # a private one
    model.push_to_hub("org/secret", token=TOKEN, private=True)
    found["secret"] = pipeline(TASK, model="org/secret", token=TOKEN)(IMAGE)
    cache = Path(os.environ["HF_HOME"]) / "other"  # what was pulled with a token stays readable from its cache
    found["secret without token"] = sentence(lambda: TaiDptModel.from_pretrained("org/secret", cache_dir=cache))
    # prompts alone, on a base of the Hub that is pinned
    model.clip.push_to_hub("org/base", token=TOKEN)
    prompts = TaiDptModel.from_clip("org/base", labels=LABELS, tokenizer=tagger.tokenizer)
    found["revision"] = prompts.config.base_model_revision == api.model_info("org/base").sha
    prompts.push_to_hub("org/prompts", token=TOKEN, prompts_only=True)
    from tests.conftest import make_clip

    make_clip(seed=1).push_to_hub("org/base", token=TOKEN)  # the branch moves on
    again = TaiDptModel.from_pretrained("org/prompts")
    found["pinned"] = all(a.equal(b) for a, b in zip(prompts.parameters(), again.parameters(), strict=True))
    load = TaiDptModel.from_pretrained
    found["other base"] = sentence(lambda: load("org/prompts", base_model_revision="main"))
    found["no such base revision"] = sentence(lambda: load("org/prompts", base_model_revision="v9"))
    found["no such base"] = sentence(lambda: load("org/prompts", base_model_name_or_path="org/gone"))
    # what goes wrong
    found["no such repository"] = sentence(lambda: TaiDptModel.from_pretrained("org/absent"))
    found["no such revision"] = sentence(lambda: TaiDptModel.from_pretrained("org/tagger", revision="v9"))
    found["no such model"] = sentence(lambda: TaiDptModel.from_pretrained("org/parts"))
    found["no weights"] = sentence(lambda: TaiDptModel.from_pretrained("org/bare"))
    model.config.push_to_hub("org/bare", token=TOKEN)
    found["no weights"] = sentence(lambda: TaiDptModel.from_pretrained("org/bare"))
    found["no token"] = sentence(lambda: model.push_to_hub("org/mine"))
    found["unknown option"] = sentence(lambda: model.push_to_hub("org/mine", token=TOKEN, branch="x"))
    found["trained"] = train(model)
    return found


def train(model: Any) -> dict[str, Any]:
    """`Trainer(push_to_hub=True)` on a few captions; what its card says."""
    from huggingface_hub import HfApi, ModelCard

    from modeling_taidpt import TaiDptModel, TaiDptTrainer, TaiDptTrainingArguments

    captions = [f"A {label} {place}." for label in LABELS for place in ("here", "there", "at home", "at night")]
    output = Path(os.environ["HF_HOME"]) / "run"
    (Path(os.environ["HF_HOME"]) / "my captions.txt").write_text("\n".join(captions))
    trainer = TaiDptTrainer(
        model,
        TaiDptTrainingArguments(
            str(output),
            push_to_hub=True,
            hub_model_id="org/trained",
            hub_token=TOKEN,
            num_train_epochs=1,
            per_device_train_batch_size=4,
            validation_size=4,
            add_templates=False,
            feature_cache_dir=str(output / "cache"),
            use_cpu=True,
            report_to="none",
            seed=7,
        ),
        train_dataset=str(Path(os.environ["HF_HOME"]) / "my captions.txt"),
    )
    trainer.train()
    trainer.push_to_hub(license="mit", tags="pets")
    card = ModelCard.load("org/trained")
    figures = [(r.metric_name, r.dataset_name, r.metric_value) for r in card.data.eval_results]
    loaded = TaiDptModel.from_pretrained("org/trained")
    same = all(a.equal(b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
    files = sorted(HfApi().list_repo_files("org/trained"))
    return {"card": str(card), "figures": figures, "report": trainer._report, "files": files, "same": same}


def remote() -> dict[str, Any]:
    """The same repositories where the package is not installed."""
    import importlib.util

    sys.meta_path[:] = [finder for finder in sys.meta_path if "__editable__" not in getattr(finder, "__module__", "")]
    sys.path[:] = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    found: dict[str, Any] = {"installed": importlib.util.find_spec("modeling_taidpt") is not None}
    from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoProcessor, pipeline

    tagger = pipeline(TASK, model="org/tagger", trust_remote_code=True)
    found["pulled"] = tagger(IMAGE)
    found["own labels"] = tagger(IMAGE, candidate_labels=["horse"])
    found["baked"] = pipeline(TASK, model="org/tagger", revision="baked", trust_remote_code=True)(IMAGE)

    def ask(question: str = "") -> str:
        found["asked"] = question
        return "n"

    found["asked"], builtins.input = None, ask  # type: ignore[assignment]
    autos = (AutoConfig, AutoModel, AutoModelForImageClassification, AutoProcessor)
    found["classes"] = [type(a.from_pretrained("org/tagger", trust_remote_code=True)).__name__ for a in autos]
    prompts = AutoModel.from_pretrained("org/prompts", trust_remote_code=True)
    found["prompts"] = prompts.config.labels
    found["untrusted"] = sentence(lambda: AutoModel.from_pretrained("org/tagger", trust_remote_code=False))
    folder = Path(os.environ["HF_HOME"]) / "saved"
    tagger.save_pretrained(folder)
    found["saved"] = pipeline(TASK, model=str(folder), trust_remote_code=True)(IMAGE)
    model = AutoModel.from_pretrained("org/tagger", trust_remote_code=True)
    model.with_labels(["horse", "cow"]).save_pretrained(folder / "again")
    found["saved files"] = sorted(file.name for file in (folder / "again").iterdir())
    found["saved card"] = (folder / "again" / "README.md").read_text()
    model.push_to_hub("org/again", token=TOKEN)
    found["again"] = pipeline(TASK, model="org/again", trust_remote_code=True)(IMAGE)
    found["still not installed"] = "modeling_taidpt" not in sys.modules
    return found


def offline() -> dict[str, Any]:
    """After the network is gone: what was pulled before loads, the rest is one sentence."""
    from transformers import pipeline

    from modeling_taidpt import TaiDptModel

    return {
        "pulled": pipeline(TASK, model="org/tagger")(IMAGE),
        "prompts": TaiDptModel.from_pretrained("org/prompts").config.labels,
        "never pulled": sentence(lambda: TaiDptModel.from_pretrained("org/never")),
    }


if __name__ == "__main__":
    result = {"push": push, "remote": remote, "offline": offline}[sys.argv[1]]()
    Path(sys.argv[2]).write_text(json.dumps(result))
