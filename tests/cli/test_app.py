"""The command line as a user types it: results, JSON, exit codes, bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import typer
from PIL import Image
from typer.testing import CliRunner

from taidpt_cli.app import COMMANDS, app

ROOT = Path(__file__).parents[2]
IMAGES = ROOT / "examples" / "images"
CAT = str(IMAGES / "cat.jpg")


def run(*arguments: str):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def fails(*arguments: str) -> str:
    """What a command says that cannot be done: one line, nothing on standard output, no traceback."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("taidpt: ")]
    assert len(lines) == 1 and "Traceback" not in result.stderr
    assert len(lines[0]) < 600
    return lines[0]


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["predict", "--help"], ["predict"]])
def test_answers_before_torch_loads(arguments):
    code = f"import sys; sys.argv = ['taidpt', *{arguments!r}]\nfrom taidpt_cli.app import main\n"
    heavy = ["torch", "transformers", "matplotlib", "pandas"]
    if arguments[-1] in ("--help", "--version") and len(arguments) == 1:  # the command itself imports typer alone
        heavy += ["rich.console", "importlib.metadata", *(f"taidpt_cli.{module}" for module, _ in COMMANDS.values())]
    code += f"try: main()\nfinally: print('heavy:', *({set(heavy)} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert result.returncode == (2 if arguments == ["predict"] else 0), result.stderr
    assert result.stdout.rstrip().endswith("heavy:")


def test_help_of_every_command_has_an_example():
    listed = " ".join(run("--help").stdout.split())
    for name, (_, sentence) in COMMANDS.items():
        command = typer.main.get_command(app).get_command(None, name)
        assert " ".join(command.help.split("\n\n")[0].split()) == sentence and f"{name} {sentence}" in listed
        result = run(name, "--help")
        assert result.exit_code == 0
        assert f"taidpt {name}" in result.stdout.split("Examples")[1], name


@pytest.mark.parametrize("columns", [80, 100])
def test_help_is_whole_at_usual_widths(columns, monkeypatch):
    """Nothing is cut, each option has a text, and no flag looks as if it took a value."""
    monkeypatch.setenv("COLUMNS", str(columns))
    for name in COMMANDS:
        shown, command = run(name, "--help").stdout, typer.main.get_command(app).get_command(None, name)
        assert "…" not in shown, name
        assert max(map(len, shown.splitlines())) <= columns
        words = shown.split()
        for option in command.params:
            assert option.help, (name, option.name)
            for flag in (*option.opts, *option.secondary_opts):
                assert flag in words or not flag.startswith("--"), (name, flag)
            if getattr(option, "is_flag", False):
                line = next(line for line in shown.splitlines() if line.lstrip("│* ").startswith(option.opts[0]))
                assert "<" not in line, line


def test_commands_are_found_where_typer_describes_no_types(monkeypatch):
    """typer before 0.26."""
    monkeypatch.delattr("typer.core._TyperParameter.display_type")
    assert typer.main.get_command(app).get_command(None, "predict").name == "predict"


def test_a_mistyped_command_suggests_the_right_one():
    result = run("predit", CAT)
    assert result.exit_code == 2 and "Did you mean 'predict'" in result.stderr


def test_nothing_that_is_printed_reaches_the_terminal_as_an_order(tmp_path):
    """Control characters of both sets, and signs that turn the direction of writing."""
    orders = "\x1b]0;owned\x07 \x9b2J\r\u202etxt.exe\x7f"
    image = tmp_path / f"cat {orders.replace('/', '')}.jpg"
    image.write_bytes(Path(CAT).read_bytes())
    for arguments in (
        ("predict", image, "--labels", f"dog,cat {orders}"),
        ("predict", image, "--labels", f"dog,cat {orders}", "--json"),
        ("predict", tmp_path / f"no {orders}.jpg"),
        ("classes", f"no {orders}"),
    ):
        result = run(*arguments)
        assert not set(result.stdout + result.stderr) & set("\x1b\x07\x9b\r\u202e\x7f"), arguments
        assert "x1b" in result.output or "u001b" in result.output
        if "--json" in arguments:
            assert orders in json.loads(result.stdout)[0]["labels"][0]["label"] + json.loads(result.stdout)[0]["image"]


@pytest.mark.parametrize("sign", [*"\n\t\x85\xad\u200b\u2060\ufeff\ufffa\U000e0041", "\udcff"])
def test_nothing_that_is_printed_hides_or_begins_a_line(tmp_path, sign):
    """A label or a name that looks like another one, or like a line of the command's own."""
    image = tmp_path / f"a{sign}b.jpg"
    image.write_bytes(Path(CAT).read_bytes())
    plain, as_json = run("predict", image), run("predict", image, "--json")
    written = sign.encode("unicode_escape").decode()
    assert plain.exit_code == as_json.exit_code == 0
    assert plain.stdout.startswith(f"{tmp_path}/a{written}b.jpg\nlabel")
    assert sign == "\n" or sign not in as_json.stdout
    assert json.loads(as_json.stdout)[0]["image"] == str(image)
    assert run("tag", tmp_path, "--output", tmp_path / "tags.csv", "--labels", f"a{sign}b").stderr.count("\n") <= 4


@pytest.mark.parametrize(
    "arguments",
    [
        ("tag", "", "--output", "out"),
        ("tag", str(IMAGES), "--output", ""),
        ("tag", str(IMAGES), "", "--output", "out"),
        ("tag", str(IMAGES), "--output="),
        ("predict", CAT, "--model", ""),
        ("calibrate", "model", ""),
        ("adapt", "model", ""),
        ("evaluate", ""),
        ("train", "--labels", "dog", "--captions", "", "--output", "out"),
        ("train", "--labels", "dog", "--captions", "x.txt", "--output", ""),
        ("export", "--output", ""),
    ],
)
def test_an_empty_text_is_not_the_folder_we_are_in(arguments, tmp_path, monkeypatch):
    """As an unset variable in a script leaves it."""
    monkeypatch.chdir(tmp_path)
    assert " is empty: write one" in fails(*arguments) and not list(tmp_path.iterdir())


def test_completion_is_there():
    assert "--install-completion" in run("--help").stdout


# ------------------------------------------------------------------ predict


def test_predict_prints_a_table():
    result = run("predict", CAT, "--top-k", "2")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0] == CAT
    assert result.stdout.splitlines()[2].startswith("cat ")
    assert len(result.stdout.splitlines()) == 4


def test_predict_takes_the_thresholds_of_the_checkpoint():
    rows = json.loads(run("predict", CAT, "--top-k", "0", "--threshold", "auto", "--json").stdout)
    assert rows[0]["labels"][0]["label"] == "cat"
    assert len(rows[0]["labels"]) < 5
    assert json.loads(run("predict", CAT, "--threshold", "0.99", "--json").stdout)[0]["labels"] == []


def test_predict_prints_json_alone_with_own_labels(tmp_path):
    labels = tmp_path / "labels.txt"
    labels.write_text("kitten\n\nairport [at night]\n")
    result = run("predict", CAT, IMAGES / "coffee.jpg", "--labels", labels, "--json")
    rows = json.loads(result.stdout)
    assert [Path(row["image"]).name for row in rows] == ["cat.jpg", "coffee.jpg"]
    assert [entry["label"] for entry in rows[0]["labels"]] == ["kitten", "airport [at night]"]
    assert "No prompts were learned" in result.stderr or result.exit_code == 0


def make_images(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (60, 40, 3), dtype=np.uint8)
    picture = Image.open(CAT).convert("RGB").resize((300, 200))
    (folder / "text.jpg").write_text("This is no picture.")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "truncated.jpg").write_bytes((IMAGES / "cat.jpg").read_bytes()[:2000])
    Image.new("1", (10_000, 10_001)).save(folder / "huge.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "grey16.png")
    picture.rotate(90, expand=True).save(folder / "turned.png", exif=_orientation(6))
    picture.save(folder / "upright.png")


def _orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


IMAGE_CASES = {
    "missing.jpg": "there is no such file",
    "text.jpg": "it is not an image",
    "empty.jpg": "it is empty",
    "truncated.jpg": "broken or cut off",
    "huge.png": "more pixels than the limit",
    "cmyk.jpg": None,
    "grey16.png": None,
    "turned.png": None,
    "upright.png": None,
}


@pytest.fixture(scope="module")
def image_rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    make_images(folder)
    result = run("predict", *(folder / name for name in IMAGE_CASES), "--json", "-k", "80")
    assert result.exit_code == 2
    for name, reason in IMAGE_CASES.items():
        assert (str(folder / name) in result.stderr) == (reason is not None)
    return {Path(row["image"]).name: row for row in json.loads(result.stdout)}


@pytest.mark.parametrize(("name", "reason"), IMAGE_CASES.items(), ids=IMAGE_CASES)
def test_predict_names_what_it_cannot_read_and_tags_the_others(image_rows, name, reason):
    row = image_rows[name]
    if reason is None:
        assert "error" not in row and len(row["labels"]) == 80
    else:
        assert reason in row["error"] and name in row["error"] and row["labels"] == []


def test_a_photograph_is_turned_as_its_exif_says(image_rows):
    assert image_rows["turned.png"]["labels"] == image_rows["upright.png"]["labels"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "org/none"], "cannot be reached"),
        (["--model", "./nothing"], "neither a folder nor the name of a repository"),
        (["--model", str(IMAGES)], "Unrecognized model"),
        (["--labels", "labels.txt"], "The label file 'labels.txt' does not exist"),
        (["--labels", " , "], "There is no label"),
        (["--labels", "cat,dog,cat"], "'cat' is duplicated"),
        (["--labels", "x" * 5000], "has 5000 characters"),
        (["--labels", "word " * 150], "tokens"),
        (["--threshold", "high"], "give a number from 0 to 1, 'auto'"),
    ],
    ids=[
        "no network",
        "no model",
        "no model in it",
        "no label file",
        "no label",
        "label twice",
        "label of 5000",
        "label of 150 words",
        "threshold",
    ],
)
def test_predict_says_what_is_wrong(arguments, reason):
    assert reason in fails("predict", CAT, *arguments)


@pytest.mark.parametrize("device", ["cuda:99", "gpu", "cpu:x", "-1", "0", "meta", "tpu", " ", "mps:7", "xla"])
def test_a_device_that_is_not_there_is_one_sentence(device, tmp_path):
    for arguments in (("predict", CAT), ("tag", IMAGES, "--output", tmp_path / "out")):
        assert f"There is no device {device!r} here: choose of cpu" in fails(*arguments, "--device", device)
    assert not (tmp_path / "out").exists()


def test_figures_of_images_that_are_called_alike(tmp_path):
    paths = [
        tmp_path / folder / name for folder, name in (("a", "x.jpg"), ("b", "x.jpg"), ("b", "X.png"), ("b", "x_2.jpg"))
    ]
    for path, image in zip(paths, ("cat", "coffee", "astronaut", "cat"), strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.open(IMAGES / f"{image}.jpg").save(path)
    rows = json.loads(run("predict", *paths, "-k", "1", "--save-figure", tmp_path / "figures", "--json").stdout)
    figures = [Path(row["figure"]) for row in rows]
    assert [figure.name for figure in figures] == ["x.png", "x_2.png", "X_3.png", "x_2_2.png"]
    assert len({figure.read_bytes() for figure in figures}) == 3  # the last shows the cat again


def test_an_empty_folder_is_one_sentence(tmp_path):
    (tmp_path / "empty").mkdir()
    assert "There are no images in" in fails("tag", tmp_path / "empty", "--output", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_mistyped_option_of_tag_spoils_no_folder(tmp_path):
    for wrong in (
        ["--threshold", "7"],
        ["--threshold", "auto2"],
        ["--labels", " , "],
        ["--engine", "spark"],
        ["--part", "3/2"],
    ):
        fails("tag", IMAGES, "--output", tmp_path / "out", *wrong)
        assert not (tmp_path / "out").exists(), wrong


# ------------------------------------------------------------------ label and classes


def test_label_counts_and_writes(tmp_path):
    captions = tmp_path / "captions.txt"
    captions.write_text("Two dogs run.\nA cat sleeps.\nNothing here.\nA dog and a cat.\n")
    for output in (tmp_path / "out" / "labelled.jsonl", tmp_path / "labelled.parquet"):
        result = run("label", captions, "--labels", "dog,cat,bus", "--output", output, "--json")
        assert json.loads(result.stdout) == {
            "captions": 4,
            "captions_with_labels": 3,
            "counts": {"dog": 2, "cat": 2, "bus": 0},
        }
    rows = [json.loads(line) for line in (tmp_path / "out" / "labelled.jsonl").read_text().splitlines()]
    assert rows == pq.read_table(tmp_path / "labelled.parquet").to_pylist()
    assert [row["labels"] for row in rows] == [["dog"], ["cat"], [], ["dog", "cat"]]
    assert "1 labels are named by none" in run("label", captions, "--labels", "dog,cat,bus").stdout


def test_label_reads_a_class_table(tmp_path):
    table = tmp_path / "table.yaml"
    table.write_text("vehicle: [lorry, bus]\nanimal: [dog]\n")
    captions = tmp_path / "captions.txt"
    captions.write_text("Lorries and dogs.\n")
    counts = json.loads(run("label", captions, "--labels", table, "--json").stdout)["counts"]
    assert counts == {"vehicle": 1, "animal": 1}
    rows = json.loads(run("classes", table, "--json").stdout)
    assert rows[0] == {"name": "vehicle", "synonyms": ["vehicle", "lorry", "bus"]}


@pytest.mark.parametrize(
    ("captions", "options", "reason"),
    [
        ("none.txt", ["--labels", "dog"], "There is no caption file 'none.txt'"),
        ("", ["--labels", "dog"], "There is no caption"),
        ("a dog", ["--labels", "dog", "--output", "out.xlsx"], "must end in"),
        ("a dog", ["--labels", "dog", "--method", "magic"], "Unknown labelling method"),
    ],
)
def test_label_says_what_is_wrong(tmp_path, captions, options, reason):
    path = captions
    if not captions.endswith(".txt"):
        path = tmp_path / "captions.txt"
        path.write_text(captions)
    assert reason in fails("label", path, *options)


def test_a_path_is_not_taken_for_a_label(tmp_path):
    (tmp_path / "labels").write_text("dog\ncat\n")
    (tmp_path / "captions.txt").write_text("a dog\n")
    counts = json.loads(run("label", tmp_path / "captions.txt", "--labels", tmp_path / "labels", "--json").stdout)
    assert counts["counts"] == {"dog": 1, "cat": 0}
    assert "is a folder" in fails("label", tmp_path / "captions.txt", "--labels", tmp_path)
    assert "There is no caption file ' '" in fails("label", " ", "--labels", "dog")


def test_classes_of_the_checkpoint_that_ships():
    rows = json.loads(run("classes", "--json").stdout)
    assert len(rows) == 80 and rows[0] == {"name": "person", "prompt name": "person", "origin": "learned"}
    assert "person" in run("classes").stdout
    assert len(json.loads(run("classes", "voc20", "--json").stdout)) == 20
    assert "'./none'" in fails("classes", "./none")


# ------------------------------------------------------------------ all commands


def test_ctrl_c_exits_with_130(monkeypatch, tmp_path):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("taidpt_cli.label._write_labelled", interrupt)
    captions = tmp_path / "captions.txt"
    captions.write_text("a dog\n")
    result = run("label", captions, "--labels", "dog", "--output", tmp_path / "out.jsonl")
    assert result.exit_code == 130
    assert [file.name for file in tmp_path.iterdir()] == ["captions.txt"]


def test_traceback_on_demand():
    result = run("--traceback", "classes", "./none")
    assert isinstance(result.exception, OSError)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("DataLoader worker (pid 9) is killed by signal: Killed. "), "reads data was killed"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "smaller batch size"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "smaller batch size"),
    ],
)
def test_a_machine_that_fails_is_one_sentence(monkeypatch, error, said):
    def fail(*args):
        raise error

    monkeypatch.setattr("taidpt_cli.predict.load_tagger", fail)
    assert said in fails("predict", CAT, "--backend", "torch")
    monkeypatch.setattr("taidpt_cli.predict.load_tagger", lambda *args: 1 / 0)
    assert isinstance(run("predict", CAT, "--backend", "torch").exception, ZeroDivisionError)
