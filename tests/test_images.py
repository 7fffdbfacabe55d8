"""Pictures in: folders, IDX, Parquet; modes and sizes; what is damaged is named; pixels as transformers makes them."""

import gzip
import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil

from llm_unlearn.data.images import class_names
from llm_unlearn.data.sources import fingerprint, load
from llm_unlearn.errors import DataError, RecipeError
from llm_unlearn.pixels import Pixels
from llm_unlearn.tasks import ImageClassifier

DRAW = np.random.default_rng(0)
COLOUR = DRAW.integers(0, 256, (7, 5, 3), dtype=np.uint8)
GREY = DRAW.integers(0, 256, (7, 5), dtype=np.uint8)


def png(array: Any, mode: str | None = None) -> bytes:
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(kept := io.BytesIO(), format="PNG")
    return kept.getvalue()


def class_folder(folder: Path) -> Path:
    for name, arrays in {"bag": (COLOUR, COLOUR[::-1]), "ankle boot": (GREY,), ".hidden": (GREY,)}.items():
        (folder / name).mkdir(parents=True)
        for number, array in enumerate(arrays):
            (folder / name / f"{number}.png").write_bytes(png(array))
    (folder / "bag" / "notes.txt").write_text("no picture")
    return folder


def test_a_folder_a_class(tmp_path: Path) -> None:
    folder = class_folder(tmp_path / "data")
    rows = load(str(folder))
    assert [(row["id"], row["label"]) for row in rows] == [("ankle boot/0.png", 0), ("bag/0.png", 1), ("bag/1.png", 1)]
    assert class_names(str(folder)) == ("ankle boot", "bag")
    assert [row["image"].mode for row in rows] == ["L", "RGB", "RGB"]
    assert np.array_equal(np.asarray(rows[1]["image"]), COLOUR)


def idx(folder: Path, *, packed: bool, images: int = 3, labels: int = 3) -> tuple[Path, Path]:
    end = ".gz" if packed else ""
    pack = gzip.compress if packed else bytes
    paths = folder / f"train-images-idx3-ubyte{end}", folder / f"train-labels-idx1-ubyte{end}"
    array = DRAW.integers(0, 256, (images, 7, 5), dtype=np.uint8)
    paths[0].write_bytes(pack(struct.pack(">IIII", 0x803, images, 7, 5) + array.tobytes()))
    paths[1].write_bytes(pack(struct.pack(">II", 0x801, labels) + bytes(i % 2 for i in range(labels))))
    return paths


@pytest.mark.parametrize("packed", [True, False])
def test_idx_files_are_found_from_either_s_name(packed: bool, tmp_path: Path) -> None:
    images, labels = idx(tmp_path, packed=packed)
    rows = load(str(images))
    assert [(row["id"], row["label"]) for row in rows] == [("0", 0), ("1", 1), ("2", 0)]
    assert rows[0]["image"].shape == (7, 5) and rows[0]["image"].dtype == np.uint8
    assert fingerprint(rows) == fingerprint(load(str(labels)))
    assert class_names(str(images)) is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda i, l: l.unlink(), r"train-images-idx3-ubyte needs train-labels-idx1-ubyte\[.gz\] beside it"),
        (lambda i, l: i.write_bytes(i.read_bytes()[:-1]), "train-images-idx3-ubyte: 104 bytes for 3 x 7 x 5"),
        (lambda i, l: i.write_bytes(l.read_bytes()), "not an IDX file of pictures"),
        (lambda i, l: l.write_bytes(l.read_bytes()[:4]), "not an IDX file of labels"),
    ],
)
def test_idx_files_that_are_not_whole(spoil: Any, message: str, tmp_path: Path) -> None:
    images, labels = idx(tmp_path, packed=False)
    spoil(images, labels)
    with pytest.raises(DataError, match=message):
        load(str(images))


def test_idx_files_that_do_not_belong_together_or_are_cut(tmp_path: Path) -> None:
    images, _ = idx(tmp_path, packed=True, labels=4)
    with pytest.raises(DataError, match="holds 3 pictures and train-labels-idx1-ubyte.gz 4 labels"):
        load(str(images))
    images.write_bytes(images.read_bytes()[:30])
    with pytest.raises(DataError, match="train-images-idx3-ubyte.gz: cannot be unpacked"):
        load(str(images))
    with pytest.raises(DataError, match="there is no such file"):
        load(str(tmp_path / "nowhere-images-idx3-ubyte.gz"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda d: (d / "bag" / "0.png").write_bytes(png(COLOUR)[:60]),
            "data, bag/0.png: no picture that can be read",
        ),
        (lambda d: (d / "bag" / "0.png").write_bytes(b"hello"), "data, bag/0.png: no picture"),
        (lambda d: (d / "hat").mkdir(), "hat holds no picture"),
    ],
)
def test_a_folder_with_something_wrong(make: Any, message: str, tmp_path: Path) -> None:
    make(folder := class_folder(tmp_path / "data"))
    with pytest.raises(DataError, match=message):
        load(str(folder))


def test_folders_of_another_make(tmp_path: Path) -> None:
    class_folder(tmp_path / "data" / "train")
    class_folder(tmp_path / "data" / "test")
    with pytest.raises(DataError, match="holds splits .test, train.: name one of them"):
        load(str(tmp_path / "data"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="is a folder without sub-folders: name one file in it"):
        load(str(tmp_path / "empty"))


def parquet(path: Path, cells: list[Any], column: str = "image", label: str = "label") -> str:
    import datasets

    names = datasets.ClassLabel(names=["shirt", "bag"])
    features = datasets.Features({column: datasets.Image(decode=False), label: names})
    table = {column: [{"bytes": cell, "path": None} for cell in cells], label: [i % 2 for i in range(len(cells))]}
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)
    return str(path)


def test_parquet_keeps_grey_grey_and_names_classes_and_damaged_rows(tmp_path: Path) -> None:
    source = parquet(tmp_path / "a.parquet", [png(GREY), png(COLOUR)], column="img")
    rows = load(source)
    assert [row["image"].mode for row in rows] == ["L", "RGB"] and class_names(source) == ("shirt", "bag")
    with pytest.raises(DataError, match=r"b.parquet, row 2: no picture that can be read"):
        load(parquet(tmp_path / "b.parquet", [png(GREY), png(GREY)[:40]]))


def test_a_hub_data_set_names_its_damaged_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "cards").mkdir()
    parquet(tmp_path / "cards" / "train.parquet", [png(COLOUR), b"nothing"])
    table = datasets.load_dataset(str(tmp_path / "cards"), split="train", cache_dir=str(tmp_path / "cache"))
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: table)
    with pytest.raises(DataError, match="cards, row 2: no picture"):
        load("somebody/cards")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I"])
def test_every_mode_becomes_what_the_model_reads(mode: str, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "one"
    folder.mkdir(parents=True)
    if mode.startswith("I"):
        wide = (GREY.astype(np.uint16) << 8 | GREY).astype(np.uint16 if mode == "I;16" else np.int32)
        Image.fromarray(wide).save(folder / ("a.png" if mode == "I;16" else "a.tif"))
    else:
        Image.fromarray(COLOUR).convert(mode).save(folder / ("a.tif" if mode == "CMYK" else "a.png"))
    (row,) = load(str(tmp_path / "data"))
    for channels in (1, 3):
        pixels = Pixels(channels=channels)([row["image"]])
        assert pixels.shape == (1, channels, 7, 5) and 0 <= pixels.min() and pixels.max() <= 1
    if mode.startswith("I"):  # Pillow alone would make it white
        assert torch.equal(pixels[0, 0], torch.from_numpy(GREY).float() / 255)


def test_pixels_are_transformers_own(tmp_path: Path) -> None:
    pictures = [Image.fromarray(COLOUR), Image.fromarray(DRAW.integers(0, 256, (20, 31, 3), dtype=np.uint8))]
    for changes in ({}, {"resample": 3}, {"do_normalize": False}, {"image_mean": [0.4, 0.5, 0.6]}):
        theirs = ViTImageProcessorPil(size={"height": 9, "width": 6}, **changes)
        ours = Pixels.like(theirs, 3)
        assert ours is not None
        wanted = theirs(pictures, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours(pictures), wanted, rtol=0, atol=2e-6)
        ours.save_pretrained(tmp_path)
        again = AutoImageProcessor.from_pretrained(tmp_path)
        torch.testing.assert_close(again(pictures, return_tensors="pt")["pixel_values"], wanted, rtol=0, atol=2e-6)
        assert Pixels.like(again, 3) == ours or changes
    assert Pixels.like(ViTImageProcessorPil(do_rescale=False), 3) is None


def test_one_channel_stays_one_channel(tmp_path: Path) -> None:
    pixels = Pixels(channels=1, mean=(0.286,), std=(0.353,))
    out = pixels([GREY, Image.fromarray(GREY)])
    assert out.shape == (2, 1, 7, 5) and torch.equal(out[0], out[1])
    torch.testing.assert_close(out[0, 0], (torch.from_numpy(GREY) / 255 - 0.286) / 0.353)
    pixels.save_pretrained(tmp_path)
    again = AutoImageProcessor.from_pretrained(tmp_path)([Image.fromarray(GREY)], return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(again[0], out[0], rtol=0, atol=2e-6)
    assert Pixels()([GREY]).shape[1] == 1 and Pixels()([COLOUR]).shape[1] == 3


def test_what_is_no_picture_or_of_another_size_is_named() -> None:
    rows: list[dict[str, Any]] = [{"image": GREY, "label": 0}, {"image": GREY[:5], "label": 1}]
    with pytest.raises(DataError, match=r"row 2's picture is 5 x 5 x 3 and row 1's 7 x 5 x 3.*--image.size"):
        ImageClassifier(processor=Pixels(channels=3)).encode(rows)
    assert len(ImageClassifier(processor=Pixels(channels=3, size=(4, 4))).encode(rows)) == 2
    with pytest.raises(DataError, match="more than one shape, and there is no image processor"):
        ImageClassifier().encode([{"image": torch.zeros(3, n, 4), "label": 0} for n in (4, 5)])
    with pytest.raises(DataError, match="ViTImageProcessorPil cannot bring these pictures to one shape"):
        ImageClassifier(processor=ViTImageProcessorPil(do_resize=False)).encode(rows)
    for wrong in (GREY.astype(float), np.zeros((2, 3, 4, 5), np.uint8), "a path", None):
        with pytest.raises(DataError, match="row 1: a picture must be a file's, or bytes"):
            Pixels()([wrong])
    with pytest.raises(DataError, match="pictures of 4 channels"):
        Pixels(channels=4)([Image.fromarray(GREY)])
    with pytest.raises(RecipeError, match="image.mean has 2 numbers"):
        Pixels(channels=3, mean=(0.5, 0.5))
    with pytest.raises(RecipeError, match="must be above 0"):
        Pixels(std=(0.0,))


def test_labels_that_the_model_does_not_have_are_refused() -> None:
    task = ImageClassifier(processor=Pixels(), classes=3)
    task.encode([{"image": GREY, "label": 2}, {"image": GREY, "label": [0, 1, 1]}])
    for label, message in ((3, "row 1 has class 3; the model's 3 classes are numbered 0 to 2"), (-1, "class -1")):
        with pytest.raises(DataError, match=message):
            task.encode([{"image": GREY, "label": label}])
    with pytest.raises(DataError, match="row 1 has 2 labels of 0 and 1; the model has 3 classes"):
        task.encode([{"image": GREY, "label": [0, 1]}])


def test_fashion_mnist_is_read_whole(data_folder: Path) -> None:
    rows = load(str(data_folder / "fashion_mnist" / "t10k-labels-idx1-ubyte.gz"))
    assert len(rows) == 10_000 and np.bincount([row["label"] for row in rows]).tolist() == [1000] * 10
    assert 0.28 < np.mean([row["image"] for row in rows[:1000]]) / 255 < 0.30
    names = class_names(str(data_folder / "cifar10_jpg" / "test.parquet"))
    assert names is not None and names[:3] == ("airplane", "automobile", "bird")


# --- the sandbox's own pictures ---


def test_the_sandbox_s_pictures_are_the_same_every_time_and_split_by_class() -> None:
    from llm_unlearn.data.splits import check
    from llm_unlearn.sandbox import pictures

    found = check(pictures.splits())
    assert {name: len(rows) for name, rows in found.items()} == {
        "forget": 300,
        "retain": 2700,
        "holdout": 100,
        "retain_heldout": 900,
    }
    assert {row["label"] for row in found["forget"]} == set(pictures.FORGOTTEN) == {3}
    assert {row["label"] for row in pictures.splits((0, 9))["holdout"]} == {0, 9}
    again = pictures.picture(0, np.random.default_rng(pictures.SEEDS["train"]))
    assert np.array_equal(pictures.rows("train")[0]["image"], again) and again.shape == (32, 32)
    assert len(pictures.CLASSES) == 10 and all(pictures.outline(label) for label in range(10))


def test_the_shipped_networks_know_what_they_should() -> None:
    from llm_unlearn.loading import load_model, load_task
    from llm_unlearn.recipe import SANDBOX, from_values
    from llm_unlearn.sandbox import pictures

    recipe = from_values({"task": "image_classifier"})
    assert recipe.gold == recipe.data == SANDBOX
    task = load_task(recipe, SANDBOX)
    rows = pictures.rows("test")
    batch = task.collate(task.encode(rows))
    hits = {}
    for name in ("target", "gold"):
        model = load_model(recipe, SANDBOX, role=name)
        assert sum(p.numel() for p in model.parameters()) < 60_000
        with torch.no_grad():
            hits[name] = task.decisions(model, batch, logits=True).greedy_hit().float()
    star = batch["labels"] == 3
    assert 0.90 < hits["target"].mean() < 0.98 and hits["target"][star].mean() > 0.85
    assert hits["gold"][star].mean() == 0 and hits["gold"][~star].mean() > 0.90


def test_a_new_image_classifier_is_trained_from_rows_alone(tmp_path: Path) -> None:
    from llm_unlearn.loading import load_model, load_task
    from llm_unlearn.recipe import from_values
    from llm_unlearn.schedule import Schedule
    from llm_unlearn.targets import Target, train_target

    folders = {name: class_folder(tmp_path / name) for name in ("forget", "retain")}
    (folders["retain"] / "bag" / "0.png").unlink()
    (folders["retain"] / "bag" / "1.png").write_bytes(png(COLOUR[:, ::-1]))
    (folders["retain"] / "ankle boot" / "0.png").write_bytes(png(np.stack([GREY[::-1]] * 3, -1)))
    (folders["forget"] / "ankle boot" / "0.png").write_bytes(png(np.stack([GREY] * 3, -1)))
    wanted = {name: str(folder) for name, folder in folders.items()} | {"output": str(tmp_path / "out")}
    train_target(Target(task="image_classifier", training=Schedule(steps=2, forget_batch=2), **wanted))
    target = str(tmp_path / "out" / "target")
    recipe = from_values({"task": "image_classifier", "model": target, "forget": "f", "retain": "r"})
    task = load_task(recipe, target)
    batch = task.collate(task.encode(load(str(folders["forget"]))))
    assert task.decisions(load_model(recipe, target), batch, logits=True).logits.shape == (3, 2)
    assert task.channels == 3 and task.processor.mean != ()
