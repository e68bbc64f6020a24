"""Reading captions, and encoding them once: cache reuse, staleness, resumption, exactness."""

from __future__ import annotations

import json
import multiprocessing
import pickle

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from modeling_taidpt.captions.corpus import read_captions
from modeling_taidpt.captions.label_columns import multi_hot
from modeling_taidpt.captions.labeler import CaptionLabeler
from modeling_taidpt.captions.labels import default_labeler, label_captions
from modeling_taidpt.features.captions import CaptionFeatures, collate_features
from modeling_taidpt.modeling_taidpt import TaiDptModel

from ..conftest import make_clip

CAPTIONS = [
    "A dog.",
    "Two cats sleep on a very long sofa beside an open window.",
    "A dog chases a cat across the yard.",
    "A dog.",
    "The horse jumps.",
    "A man rides a horse while his dog runs along the beach at sunset.",
    "cat " * 100,
]
LABELS = ["dog", "cat", "horse"]
MATRIX = np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0]])


@pytest.fixture
def model(clip, tokenizer) -> TaiDptModel:
    return TaiDptModel.from_clip(clip, labels=LABELS, tokenizer=tokenizer, num_context_tokens=4)


@pytest.fixture
def count_encoded(monkeypatch):
    """Counts the captions that a model encodes."""
    counts = []
    original = TaiDptModel.encode_captions

    def counting(self, input_ids, attention_mask=None):
        counts.append(len(input_ids))
        return original(self, input_ids, attention_mask)

    monkeypatch.setattr(TaiDptModel, "encode_captions", counting)
    return counts


def encode(model, cache_dir, captions=CAPTIONS, labels=MATRIX, **options):
    options = {"batch_size": 2, "shard_size": 4, "progress": False, **options}
    return CaptionFeatures.encode(model, captions, labels, cache_dir=cache_dir, **options)


@torch.no_grad()
def plain(model, caption):
    tokens = model.get_tokenizer()([caption], truncation=True, max_length=77, return_tensors="pt")
    pooled, features = model.encode_captions(tokens["input_ids"], tokens["attention_mask"])
    return pooled[0], features[0]


def test_features_equal_those_of_each_caption_alone(model, tmp_path):
    features = encode(model, tmp_path)
    assert len(features) == len(CAPTIONS)
    for index, caption in enumerate(CAPTIONS):
        pooled, tokens = plain(model, caption)
        item = features[index]
        torch.testing.assert_close(item["caption_embeds"], pooled, atol=2e-6, rtol=0)
        torch.testing.assert_close(item["token_embeds"], tokens, atol=2e-6, rtol=0)
        assert item["labels"].tolist() == MATRIX[index].tolist()
    assert len(features[6]["token_embeds"]) == 77  # cut, and its end token kept


def test_a_batch_is_padded_to_its_longest_caption_and_scores_as_the_captions_do(model, tmp_path):
    features = encode(model, tmp_path)
    batch = collate_features([features[index] for index in (0, 4, 1)])
    tokens = model.get_tokenizer()([CAPTIONS[index] for index in (0, 4, 1)], padding=True, return_tensors="pt")
    assert batch["token_embeds"].shape == (3, tokens["input_ids"].shape[1], 24)
    assert torch.equal(batch["attention_mask"], tokens["attention_mask"])
    assert torch.equal(batch["labels"], torch.tensor(MATRIX[[0, 4, 1]]).float())
    kept = model(**{name: batch[name] for name in ("caption_embeds", "token_embeds", "attention_mask")})
    fresh = model(**tokens)
    torch.testing.assert_close(kept.logits_global, fresh.logits_global, atol=1e-5, rtol=0)
    torch.testing.assert_close(kept.logits_local, fresh.logits_local, atol=1e-5, rtol=0)


def test_equal_captions_are_encoded_once_and_the_next_run_encodes_nothing(model, tmp_path, count_encoded):
    first = encode(model, tmp_path)
    assert sum(count_encoded) == 6  # seven captions, two of them equal
    second = encode(model, tmp_path)
    assert sum(count_encoded) == 6
    assert torch.equal(first[5]["token_embeds"], second[5]["token_embeds"])


@pytest.mark.parametrize("changed", ["captions", "order", "weights", "tokenizer", "dtype", "bf16"])
def test_what_changes_the_features_never_finds_the_old_ones(model, tmp_path, count_encoded, changed):
    encode(model, tmp_path)
    before = sum(count_encoded)
    captions, options = list(CAPTIONS), {}
    if changed == "captions":
        captions[2] += " Again."
    elif changed == "order":
        captions = captions[::-1]
    elif changed == "weights":
        with torch.no_grad():
            model.clip.text_projection.weight[0, 0] += 1e-3
    elif changed == "tokenizer":
        options["tokenizer"] = pickle.loads(pickle.dumps(model.get_tokenizer()))
        options["tokenizer"].model_max_length = 20
    else:
        options = {"dtype": {"dtype": "float16"}, "bf16": {"bf16": True}}[changed]
    encode(model, tmp_path, captions, **options)
    assert sum(count_encoded) == before + 6


def test_other_prompts_labels_and_image_tower_reuse_the_features(model, tmp_path, count_encoded):
    encode(model, tmp_path)
    with torch.no_grad():
        model.prompt_learner.global_context += 1
        model.clip.visual_projection.weight += 1
    features = encode(model, tmp_path, labels=1 - MATRIX)
    assert sum(count_encoded) == 6
    assert features[0]["labels"].tolist() == [0, 1, 1]


def test_a_killed_encoding_goes_on_after_its_last_whole_file(model, tmp_path, monkeypatch, count_encoded):
    import modeling_taidpt.features.cache as module

    write, written = module.write_shard, []

    def killed_at_the_second(path, *features):
        if written:
            raise KeyboardInterrupt
        written.append(path)
        write(path, *features)

    monkeypatch.setattr(module, "write_shard", killed_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        encode(model, tmp_path)
    monkeypatch.setattr(module, "write_shard", write)
    count_encoded.clear()
    features = encode(model, tmp_path)
    assert sum(count_encoded) == 2  # the second file alone
    torch.testing.assert_close(features[5]["caption_embeds"], plain(model, CAPTIONS[5])[0], atol=2e-6, rtol=0)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage"])
def test_a_damaged_file_is_written_again(model, tmp_path, count_encoded, damage):
    reference = encode(model, tmp_path)[0]["caption_embeds"].clone()
    path = sorted(tmp_path.glob("*/captions-00000*.arrow"))[0]
    content = path.read_bytes()
    path.unlink()  # not rewritten in place: it is mapped
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "garbage": b"x" * 500}[damage])
    count_encoded.clear()
    features = encode(model, tmp_path)
    assert sum(count_encoded) == 4
    assert torch.equal(features[0]["caption_embeds"], reference)


def test_a_failed_write_leaves_nothing_behind(model, tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk is full")))
    with pytest.raises(OSError, match="disk is full"):
        encode(model, tmp_path)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".tmp", ".arrow")]


def _encode_in_process(cache_dir, queue):
    torch.set_num_threads(1)
    model = TaiDptModel.from_clip(make_clip(), labels=LABELS, num_context_tokens=4)
    queue.put(encode(model, cache_dir)[5]["caption_embeds"].numpy())


def test_two_processes_may_want_the_same_features(model, tmp_path):
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=_encode_in_process, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    results = [queue.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    np.testing.assert_array_equal(*results)
    assert len(list(tmp_path.glob("*/*.arrow"))) == 2


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_half_precision_is_kept_and_comes_back_as_float32_batches(model, tmp_path, dtype, tolerance):
    features = encode(model, tmp_path, dtype=dtype)
    assert features[1]["token_embeds"].dtype == getattr(torch, dtype)
    batch = collate_features([features[1]])
    assert batch["token_embeds"].dtype == torch.float32
    torch.testing.assert_close(batch["token_embeds"][0], plain(model, CAPTIONS[1])[1], atol=tolerance, rtol=0)


def test_half_precision_takes_less_room_and_nothing_is_said_of_bytes(model, tmp_path, caplog):
    sizes = []
    for dtype in ("float32", "float16"):
        CaptionFeatures.encode(model, CAPTIONS, MATRIX, cache_dir=tmp_path / dtype, dtype=dtype)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / dtype).glob("*/*.arrow")))
    assert sizes[1] < 0.8 * sizes[0] and "bytes" not in caplog.text


def test_files_are_arrow_and_memory_mapped_in_workers_too(model, tmp_path):
    features = encode(model, tmp_path)
    table = Dataset.from_file(str(sorted(tmp_path.glob("*/*.arrow"))[0]))
    np.testing.assert_allclose(table[0]["caption_embeds"], features[0]["caption_embeds"].numpy())
    assert len(pickle.dumps(features)) < 4000  # paths, not features
    loader = torch.utils.data.DataLoader(features, batch_size=3, num_workers=1, collate_fn=collate_features)
    batches = list(loader)
    assert torch.equal(batches[1]["caption_embeds"], torch.stack([features[i]["caption_embeds"] for i in (3, 4, 5)]))


def test_select_and_join(model, tmp_path):
    features = encode(model, tmp_path)
    joined = features.select([5, 0]).join(features.select([2]))
    assert len(joined) == 3
    assert torch.equal(joined[2]["token_embeds"], features[2]["token_embeds"])
    assert torch.equal(joined[0]["token_embeds"], features[5]["token_embeds"])
    assert joined.labels.tolist() == MATRIX[[5, 0, 2]].tolist()


def test_prototypes_are_normalised_means_of_the_captions_that_name_a_class(model, tmp_path):
    labels = np.hstack([MATRIX, np.zeros((7, 1))])
    features = encode(model, tmp_path, labels=labels)
    prototypes, present = features.class_prototypes()
    assert present.tolist() == [True, True, True, False]
    pooled = torch.stack([features[index]["caption_embeds"] for index in range(7)])
    for column in range(3):
        mean = pooled[torch.tensor(MATRIX[:, column] == 1)].mean(dim=0)
        torch.testing.assert_close(prototypes[column], mean / mean.norm(), atol=1e-6, rtol=0)
    assert not prototypes[3].any()


def test_prototypes_of_few_captions_are_drawn_with_the_seed(model, tmp_path):
    features = encode(model, tmp_path)
    first, _ = features.class_prototypes(max_captions=1, seed=1)
    again, _ = features.class_prototypes(max_captions=1, seed=1)
    assert torch.equal(first, again)
    pooled = torch.stack([features[index]["caption_embeds"] for index in (0, 2, 3, 5)])  # those of dogs
    assert (first[0] @ pooled.T).max() == pytest.approx(1, abs=1e-5)


def test_centred_prototypes_leave_out_what_all_captions_share(model, tmp_path):
    features = encode(model, tmp_path)
    plain, _ = features.class_prototypes()
    centred, _ = features.class_prototypes(centering=0.5)
    mean = torch.stack([features[index]["caption_embeds"] for index in np.flatnonzero(MATRIX.any(axis=1))]).mean(dim=0)
    expected = torch.nn.functional.normalize(plain - 0.5 * mean / mean.norm(), dim=-1)
    torch.testing.assert_close(centred, expected, atol=1e-6, rtol=0)


# ---------------------------------------------------------------------- reading


def write(path, rows):
    if path.suffix == ".txt":
        path.write_text("\n".join(row["caption"] for row in rows) + "\n\n", encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8-sig")
    elif path.suffix == ".csv":
        Dataset.from_list(rows).to_csv(path, index=False)
    else:
        Dataset.from_list(rows).to_parquet(path)
    return path


ROWS = [{"caption": 'A "dog", he says.', "labels": [0]}, {"caption": "Zwei K\u00e4tzchen", "labels": [1]}]


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".jsonl", ".parquet"])
def test_every_kind_of_file_gives_the_same_captions(tmp_path, suffix):
    table = read_captions(write(tmp_path / f"captions{suffix}", ROWS))
    assert table.captions == [row["caption"] for row in ROWS]


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_label_columns_are_read_from_files(tmp_path, suffix):
    table = read_captions(write(tmp_path / f"captions{suffix}", ROWS), label_column="labels")
    assert [list(value) for value in table.labels] == [[0], [1]]


def test_data_sets_streams_and_lists_give_the_same_captions():
    dataset = Dataset.from_list([{**row, "image": "x"} for row in ROWS])
    expected = [row["caption"] for row in ROWS]
    for data in (dataset, dataset.to_iterable_dataset(), ROWS, expected):
        assert read_captions(data).captions == expected
    assert read_captions(dataset, max_captions=1).captions == expected[:1]


def test_an_endless_stream_is_read_as_far_as_asked():
    from datasets import IterableDataset

    def endless():
        while True:
            yield {"caption": "A dog."}

    assert len(read_captions(IterableDataset.from_generator(endless), max_captions=5).captions) == 5


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "does not exist"),
        ("captions.doc", b"x", "must end in one of"),
        ("empty.txt", b"\n \n", "it is empty"),
        ("empty.json", b"", "it is empty"),
        ("latin.txt", "Ein schöner Hund".encode("latin-1"), "not UTF-8"),
        ("latin.csv", "caption\nEin schöner Hund".encode("latin-1"), "not UTF-8"),
        ("broken.jsonl", b'{"caption": "A dog."}\n{"caption": ', "line 2 is not JSON"),
        ("broken.json", b'[{"caption": "A dog."', "cannot be read"),
        ("other.csv", b"text\nA dog.\n", "no column 'caption'"),
        ("other.parquet", b"not parquet at all", "not a Parquet file"),
        ("number.jsonl", b'{"caption": 3}', "caption in row 0"),
    ],
)
def test_a_bad_file_is_named_in_one_sentence(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((ValueError, TypeError, FileNotFoundError), match=message) as error:
        read_captions(path)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_data_set_is_an_error_that_says_what_to_write():
    dataset = Dataset.from_list(ROWS)
    with pytest.raises(ValueError, match=r"no column 'text' in the data set, it has 'caption', 'labels'"):
        read_captions(dataset, "text")
    with pytest.raises(TypeError, match=r"dataset\['train'\]"):
        read_captions(DatasetDict({"train": dataset}))
    with pytest.raises(TypeError, match="int"):
        read_captions(3)


# ---------------------------------------------------------------------- labels


def test_label_columns_may_be_multi_hot_indices_or_names():
    expected = [[1, 0, 1], [0, 1, 0]]
    assert multi_hot(expected, LABELS).tolist() == expected
    assert multi_hot([[0, 2], [1]], LABELS).tolist() == expected
    assert multi_hot([["dog", "horse"], "cat"], LABELS).tolist() == expected
    assert multi_hot([None, 1], LABELS).tolist() == [[0, 0, 0], [0, 1, 0]]
    for wrong in ([[3]], [["cow"]], [[-1]], [[0.5]]):
        with pytest.raises(ValueError, match=r"[Rr]ow 0 of the file"):
            multi_hot(wrong, LABELS, "the file")


def test_the_default_labeler_uses_a_published_table_where_it_fits():
    captions = ["A hot dog.", "A woman and a puppy."]
    few = ["dog", "person"]
    assert label_captions(default_labeler(few, few), captions, few).tolist() == [[0, 0], [1, 1]]
    other = ["woman", "puppy"]
    assert label_captions(default_labeler(other, other), captions, other).tolist() == [[0, 0], [1, 1]]


def test_labels_of_a_whole_table_are_found_under_their_usual_names(shared):
    names = json.loads((shared / "data/coco_val_dev/labels.json").read_text())["categories"]
    labeler = default_labeler(names, names)
    captions = ["A motorcycle under an airplane.", "A person with a hair dryer."]
    matrix = label_captions(labeler, captions, names)
    assert [names[column] for column in np.flatnonzero(matrix[0])] == ["motorcycle", "airplane"]
    assert len(labeler.class_names) == 80


def test_a_labeler_may_know_more_classes_in_another_order():
    labeler = CaptionLabeler(["cat", "cow", "dog", "horse"])
    assert label_captions(labeler, ["A dog and a cow."], LABELS).tolist() == [[1, 0, 0]]
    with pytest.raises(ValueError, match="no class 'horse'"):
        label_captions(CaptionLabeler(["cat", "dog"]), ["A dog."], LABELS)
    with pytest.raises(ValueError, match=r"matrix \(1, 2\)"):
        label_captions(lambda captions: np.zeros((1, 2)), ["A dog."], LABELS)
