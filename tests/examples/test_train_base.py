"""The parts of `examples/train_base.py`, on made-up features, captions and a tiny random trunk."""

from __future__ import annotations

import importlib
import json
import sys
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import EfficientNetConfig, MobileNetV2Config

EXAMPLES = Path(__file__).parents[2] / "examples"
CAPTIONS = ["a cat on a mat", "two cats sleep", "a red bus", "the bus stops near a cat", "an old kite", "a kite flies"]
MENTIONS = [[0], [0], [1], [0, 1], [2], [2]]
KEYS = [("coco", 1), ("coco", 1), ("coco", 2), ("coco", 3), ("flickr", 4), ("flickr", 4)]
CHANNELS = 1280
WIDTH = 80  # of the maps that enter the tiny trunk's last convolution


@pytest.fixture(scope="module")
def base():
    """The helper modules of the script, under their own names."""
    sys.path.insert(0, str(EXAMPLES))
    names = ("base_model", "base_tokenizer", "concepts", "corpus", "image_features", "imagenet_trunk", "pairs")
    modules = {name: importlib.import_module(f"embedded_base.{name}") for name in (*names, "selection", "training")}
    sys.path.remove(str(EXAMPLES))
    return SimpleNamespace(**modules)


@pytest.fixture(scope="module")
def small_tokenizer(base, tokenizer):
    return base.base_tokenizer.reduce_tokenizer(tokenizer, CAPTIONS, 600)


TRUNKS = {
    "mobilenet": MobileNetV2Config(depth_multiplier=0.25, tf_padding=False),
    "lite": EfficientNetConfig(
        width_coefficient=0.25,
        depth_coefficient=1.0,
        squeeze_expansion_ratio=0.0,
        hidden_act="relu6",
        hidden_dim=320,
        image_size=256,
    ),
}


def make_trunk(base, name: str):
    """A tiny trunk whose normalisations do something."""
    torch.manual_seed(0)
    trunk = base.imagenet_trunk.build_trunk(TRUNKS[name])
    for layer in trunk.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(std=0.1)
            layer.running_var.uniform_(0.5, 1.5)
            layer.weight.uniform_(0.5, 1.5)
        elif isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight)
    return trunk


@pytest.fixture(scope="module")
def trunk(base):
    return make_trunk(base, "mobilenet")


@pytest.fixture
def model(base, trunk, small_tokenizer):
    torch.manual_seed(0)
    return base.base_model.build_base(trunk, small_tokenizer, torch.zeros(CHANNELS))


def make_photographs(base, labels: torch.Tensor, cells: torch.Tensor):
    names = [f"{number}.jpg" for number in range(len(labels))]
    categories = ["cat", "bus", "kite"]
    photographs = base.image_features.Photographs(Path("photos"), categories, names, labels, [None] * len(labels))
    photographs.maps, photographs.pooled = torch.rand(*cells.shape[:3], WIDTH), cells.mean(dim=2)
    return photographs


def make_classifier(rows: torch.Tensor) -> torch.nn.Linear:
    classifier = torch.nn.Linear(CHANNELS, len(rows), bias=False).requires_grad_(False)
    classifier.weight.copy_(rows)
    return classifier


@pytest.fixture
def sampler(base):
    """Concepts 0 and 1 have a classifier row each, concept 2 is known from photographs only."""
    generator = torch.Generator().manual_seed(0)
    concepts = [
        base.concepts.Concept("cat", rows={3}),
        base.concepts.Concept("bus", rows={5}),
        base.concepts.Concept("kite"),
    ]
    labels = torch.eye(3).repeat(6, 1)  # (18, 3)
    cells = 0.1 * torch.randn(18, 2, 4, CHANNELS, generator=generator)
    cells += 2 * labels.argmax(1)[:, None, None, None] * torch.nn.functional.one_hot(torch.tensor(7), CHANNELS)
    rows = torch.randn(1000, CHANNELS, generator=generator)
    options = base.pairs.PairOptions(
        shrinkage=float("inf"), background_low=0.0, background_high=0.0, photo_share=0.0, recognized=0
    )
    # two photographs whose labels are not known: captions have the key "flickr" 4, none has "flickr" 5
    own = make_photographs(base, torch.zeros(2, 3), cells[:2] + 0.1)
    own.folder, own.names, own.complete = Path("flickr"), [4, 5], False
    photographs = [make_photographs(base, labels, cells), own]
    return base.pairs.PairSampler(MENTIONS, KEYS, concepts, photographs, make_classifier(rows), options)


def test_reduced_tokenizer_encodes_any_word_and_its_own_words_as_before(small_tokenizer, tokenizer):
    assert len(small_tokenizer) <= 600
    assert small_tokenizer.model_max_length == 77
    for text in ("the cat stops near an old kite", "Xylophonist 你好 naïve 42"):
        ids = small_tokenizer(text)["input_ids"]
        assert (
            ids[0] == small_tokenizer.bos_token_id
            and ids[-1] == small_tokenizer.eos_token_id == len(small_tokenizer) - 1
        )
        assert small_tokenizer.unk_token_id not in ids[1:-1]
        assert small_tokenizer.decode(ids, skip_special_tokens=True) == tokenizer.decode(
            tokenizer(text)["input_ids"], skip_special_tokens=True
        )
    assert small_tokenizer.tokenize("kite") == tokenizer.tokenize("kite")


def test_reduced_tokenizer_refuses_a_size_without_room_for_bytes(base, tokenizer):
    with pytest.raises(ValueError, match="514"):
        base.base_tokenizer.reduce_tokenizer(tokenizer, [], 100)


def test_selection_is_by_checksum_and_the_parts_do_not_meet(base, tmp_path):
    names = [f"{number:03}.jpg" for number in range(40)]
    content = {"categories": ["cat"], "images": [{"file_name": name, "labels": [0], "coco_id": 9} for name in names]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    selection = base.image_features.read_photographs(tmp_path, selection=True).names
    training = base.image_features.read_photographs(tmp_path, selection=False).names
    assert selection == [name for name in names if zlib.crc32(name.encode()) % 5 == 0]
    assert sorted(selection + training) == names


def test_captions_of_held_out_images_are_left_out_and_bad_lines_are_named(base, tmp_path):
    coco, other = tmp_path / "coco_captions.jsonl", tmp_path / "other.jsonl"
    coco.write_text("".join(json.dumps({"image_id": number, "caption": f"c{number}"}) + "\n" for number in (1, 2)))
    other.write_text(json.dumps({"image_id": 2, "caption": "o2"}) + "\n")
    captions, keys = base.corpus.read_image_captions([coco, other], held_out={2})
    assert captions == ["c1", "o2"]
    assert keys == [("coco", 1), ("other", 2)]
    other.write_text('{"caption": "x", "image_id": 1}\n{"text": "x"}\n')
    with pytest.raises(ValueError, match=r"other\.jsonl, line 2"):
        base.corpus.read_image_captions([other], set())


def test_other_weights_are_refused(base, tmp_path):
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    with pytest.raises(ValueError, match="b0353104"):
        base.imagenet_trunk.read_weights(file)


def test_class_means_recover_planted_means(base):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(12, 12, generator=generator)
    means = torch.randn(4, 12, generator=generator)
    means -= means.mean(0)
    noise = torch.randn(20000, 12, generator=generator) @ mixing  # within-class covariance mixing.T @ mixing
    rows = means @ torch.linalg.inv(mixing.T @ mixing)  # Fisher's discriminant
    found = base.pairs.class_means(rows, noise, shrinkage=0.0)
    assert torch.nn.functional.cosine_similarity(found, means).min() > 0.97
    plain = base.pairs.class_means(rows, noise, shrinkage=float("inf"))
    assert torch.nn.functional.cosine_similarity(plain, rows).min() > 0.9999


def test_composed_features_show_what_the_caption_names(base, sampler):
    centred = sampler.compose([[0], [0, 1], [2]]) - sampler.mean
    assert torch.allclose(centred.norm(dim=1), sampler.norm.expand(3), rtol=1e-4)
    cat, both, kite = base.pairs.unit(centred)
    assert torch.allclose(cat, sampler.bank[3], atol=1e-5)
    assert both @ sampler.bank[3] > 0.1 and both @ sampler.bank[5] > 0.1
    assert kite[7] > 0.5  # no classifier row: drawn from its photographs
    captions, features, shown = sampler.composed(64)
    assert features.shape == (64, CHANNELS)
    assert [row.nonzero().flatten().tolist() for row in shown] == [MENTIONS[caption] for caption in captions]


def test_real_pairs_and_paraphrases(sampler):
    captions, _, shown = sampler.real(32)
    for caption, row in zip(captions, shown, strict=True):
        assert set(MENTIONS[caption]) & set(row.nonzero().flatten().tolist())
    for first, second in zip(*sampler.paraphrases(16), strict=True):
        assert first != second and KEYS[first] == KEYS[second]


def test_own_captions_pair_with_their_photograph_alone(sampler):
    captions, views, shown = sampler.own(8)
    assert len(captions) == 1 and captions[0] in (4, 5)
    assert views[0] // 2 == 18  # two views a photograph, the first after the 18 labelled ones
    assert shown.nonzero().tolist() == [[0, 2]]
    assert sampler.cells(views).shape == (1, 4, WIDTH)
    assert torch.equal(sampler.cells(views)[0], sampler.maps[1][views[0] - 36])


def test_views_that_the_classifier_is_sure_of_become_prototypes(base):
    concepts = [base.concepts.Concept("cat", rows={3}), base.concepts.Concept("kite")]
    photographs = make_photographs(base, torch.zeros(3, 3), torch.zeros(3, 2, 4, CHANNELS))
    photographs.pooled = torch.eye(6, CHANNELS).unflatten(0, (3, 2))  # every view in a direction of its own
    rows = torch.zeros(1000, CHANNELS)
    rows[3, 3] = 100  # the second view of the second photograph
    sampler = base.pairs.PairSampler([], [], concepts, [photographs], make_classifier(rows))
    assert sampler.shots.values[: sampler.shots.counts[0]].tolist() == [1000 + 3]
    assert sampler.shots.counts[1] == 0


def test_contrastive_loss_masks_equal_and_contained_concepts(base):
    torch.manual_seed(0)
    first, second = (torch.nn.functional.normalize(torch.randn(3, 8), dim=-1) for _ in range(2))
    shown = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])  # 0 is contained in 1
    logits = 10 * first @ second.T
    masked = logits.clone()
    masked[0, 1] = masked[1, 0] = -torch.inf
    expected = -(masked.log_softmax(0).diag().mean() + masked.log_softmax(1).diag().mean()) / 2
    found = base.training.contrastive_loss(logits, base.training.equal_or_contained(shown))
    assert torch.allclose(found, expected, atol=1e-6)
    assert base.training.contrastive_loss(logits) > found


def test_captions_that_share_a_concept_or_say_the_same_are_no_negatives(base):
    texts = torch.tensor([[1.0, 0.0, 0.0], [0.99, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    shown = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    found = base.training.sharing(shown, texts, near=0.85)
    assert found.nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1], [2, 2], [2, 3], [3, 2], [3, 3]]


def test_local_similarity_is_between_mean_and_largest_cell(base):
    texts, cells = torch.eye(2)[:1], torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    similarity = base.training.local_similarity
    assert torch.allclose(similarity(texts, cells, 0.0), torch.tensor([[0.5]]))
    assert torch.allclose(similarity(texts, cells, 100.0), torch.tensor([[1.0]]))


def test_folders_of_names_and_of_captions_are_read(base, tmp_path):
    names = [name for name in map("{}.jpg".format, range(40)) if not base.image_features.is_selection(name)][:2]
    table = [
        {"file_name": names[0], "labels": ["bus"], "wnid": "n1"},
        {"file_name": names[1], "labels": ["cat", "bus"]},
    ]
    (tmp_path / "labels.json").write_text(json.dumps(table))
    (tmp_path / "captions.jsonl").write_text(json.dumps({"file_name": names[1], "captions": ["a", "b"]}) + "\n")
    found = base.image_features.read_photographs(tmp_path, selection=False)
    assert not found.complete and found.categories == ["bus", "cat"] and found.wnids == ["n1", None]
    assert found.labels.tolist() == [[1, 0], [1, 1]] and found.captions == [[], ["a", "b"]]
    (tmp_path / "labels.json").unlink()
    found = base.image_features.read_photographs(tmp_path, selection=False)
    assert found.names == [names[1]] and found.labels.shape == (1, 0)
    (tmp_path / "captions.jsonl").unlink()
    with pytest.raises(ValueError, match="neither"):
        base.image_features.read_photographs(tmp_path, selection=False)


@pytest.mark.parametrize("name", TRUNKS)
def test_cached_maps_give_the_cells_of_the_trunk(base, name, tmp_path):
    trunk = make_trunk(base, name)
    pixels = np.random.default_rng(0).integers(0, 255, (2, 240, 260, 3), dtype=np.uint8)
    photographs = make_photographs(base, torch.zeros(2, 3), torch.zeros(2, 1, 4, CHANNELS))
    photographs.folder = tmp_path
    (tmp_path / "images").mkdir()
    for file, each in zip(photographs.names, pixels, strict=True):
        Image.fromarray(each).save(tmp_path / "images" / file, quality=95)
    base.image_features.load_maps(photographs, trunk, 1, 0, str(tmp_path / "features"))
    cells = {"mobilenet": 7 * 7, "lite": 8 * 8}[name]  # of the size that each trunk sees
    assert photographs.maps.shape == (2, 2, cells, WIDTH)
    images = [Image.open(tmp_path / "images" / name) for name in photographs.names]
    inputs = base.imagenet_trunk.trunk_processor(trunk)(images, return_tensors="pt")
    with torch.no_grad():
        expected = trunk(**inputs).last_hidden_state.flatten(2).transpose(1, 2)  # (2, cells, channels)
        found = base.image_features.expand_maps(trunk, photographs.maps[:, 0])  # (2, cells, channels)
    assert torch.allclose(found, expected, atol=2e-2)
    assert torch.allclose(photographs.pooled[:, 0].float(), expected.mean(1), atol=1e-2)
    kept = photographs.maps
    base.image_features.load_maps(photographs, SimpleNamespace(config=trunk.config), 1, 0, str(tmp_path / "features"))
    assert torch.equal(photographs.maps, kept)
    other = make_trunk(base, next(iter(TRUNKS.keys() - {name})))
    base.image_features.load_maps(photographs, other, 1, 0, str(tmp_path / "features"))
    assert not torch.equal(photographs.maps, kept)


def test_encoder_equals_one_text_at_a_time(base, model, small_tokenizer):
    ids = small_tokenizer(CAPTIONS)["input_ids"]
    encode = base.training.CaptionEncoder(model.eval(), ids, chunks=2, max_tokens=6)
    found = encode([5, 0, 3])
    for row, caption in zip(found, (5, 0, 3), strict=True):
        text = ids[caption] if len(ids[caption]) <= 6 else [*ids[caption][:5], small_tokenizer.eos_token_id]
        alone = model.get_text_features(torch.tensor([text])).pooler_output[0]
        assert torch.allclose(row, torch.nn.functional.normalize(alone, dim=-1), atol=1e-5)


def test_untrained_pool_is_the_mean_of_cells(model):
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        pooled = model.eval().get_image_features(pixels).pooler_output  # (2, dim)
        dense = model.vision_model.attention_pool.dense(model.vision_model.encode_cells(pixels))  # (2, 2, 2, dim)
    assert torch.allclose(pooled, dense.mean(dim=(1, 2)), atol=1e-5)


@pytest.fixture
def make_trainer(base, trunk, sampler, small_tokenizer):
    ids = small_tokenizer(CAPTIONS)["input_ids"]

    def make(steps: int = 12):
        torch.manual_seed(0)
        sampler.generator = np.random.default_rng(0)
        options = base.training.BaseTrainingOptions(steps=steps, composed=8, real=4, own=1, paraphrases=2, warmup=2)
        model = base.base_model.build_base(trunk, small_tokenizer, sampler.mean)
        return base.training.Trainer(model, sampler, base.training.CaptionEncoder(model, ids), options)

    return make


def test_training_learns_repeats_itself_and_leaves_the_trunk_alone(make_trainer, trunk):
    trainer = make_trainer()
    losses = trainer.train()
    assert losses == make_trainer().train()
    assert np.mean(losses[-3:]) < np.mean(losses[:3])
    for name, tensor in trainer.model.vision_model.trunk.state_dict().items():
        assert torch.equal(tensor, trunk.state_dict()[name])
    assert not trainer.model.vision_model.attention_pool.q_proj.weight.any()


def test_a_stopped_training_goes_on_to_the_same_bit(make_trainer, tmp_path):
    whole = make_trainer().train()
    trainer = make_trainer()

    def stop(step: int, loss: float) -> None:
        if step == 5:
            trainer.save(tmp_path / "state.pt", note="kept")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.train(stop)
    resumed = make_trainer()
    torch.manual_seed(7)
    assert resumed.load(tmp_path / "state.pt")["note"] == "kept"
    assert resumed.train() == whole
    with pytest.raises(ValueError, match="other options"):
        make_trainer(steps=3).load(tmp_path / "state.pt")


def test_retrieval_and_pointing_count_what_is_found(base, model, small_tokenizer):
    photographs = make_photographs(base, torch.eye(3).repeat(2, 1), torch.rand(6, 1, 4, CHANNELS))
    photographs.captions = [[caption] for caption in CAPTIONS]
    texts = base.training.CaptionEncoder(model, small_tokenizer(CAPTIONS)["input_ids"])(list(range(6)))  # (6, dim)
    pool = model.vision_model.attention_pool
    inverse = torch.linalg.pinv(pool.v_proj.weight)  # (channels, dim)
    with torch.no_grad():
        photographs.pooled = ((texts - pool.v_proj.bias) @ inverse.T)[:, None]  # (6, 1, channels)
    found = base.selection.score_retrieval(model, small_tokenizer, photographs)
    assert found["images"]["R@1"] == found["captions"]["R@10"] == 100
    with torch.no_grad():
        maps = base.image_features.expand_maps(model.vision_model.trunk, photographs.maps[:, 0])  # (6, 4, channels)
        cells = base.training.encode_pooled(model, maps)  # (6, 4, dim)
    photographs.labels = torch.eye(6)
    assert base.selection.score_pointing(model, cells[:, 0], [photographs]) == 100  # a cell is nearest to itself
    assert base.selection.score_pointing(model, torch.zeros_like(cells[:, 0]), [photographs]) == 25  # all ties


def test_wordnet_concepts_know_rows_and_keep_names_apart(base):
    pytest.importorskip("nltk")
    try:
        concepts = base.concepts.build_concepts(
            ["dog", "orange"], [{"name": "dog", "synonyms": ["puppy"]}, {"name": "orange", "synonyms": []}]
        )
    except LookupError:
        pytest.skip("needs NLTK's WordNet data (NLTK_DATA)")
    assert len(concepts[0].rows) == 118
    names = [name for concept in concepts for name in (concept.name, *concept.synonyms)]
    assert len(names) == len(set(names))
    assert base.concepts.find_mentions(["Two puppies near an oranges stand."], concepts)[0][:2] == [0, 1]
