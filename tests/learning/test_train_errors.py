"""Bad input to the commands of training and recording: one line that says what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("sklearn")
pytest.importorskip("dacite")
pytest.importorskip("onnxscript")

from exporters.__main__ import main, parser
from exporters.recording.dataset import DatasetError, DatasetWriter

RECIPE = 'name = "x"\ndataset = "nowhere"\n'


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--until", "teacher", "--package", "world"], "after --until teacher there is nothing to package"),
        (["--device", "warp"], "device: 'warp' cannot be used here"),
        (["--device", "cuda:99"], "device: 'cuda:99' cannot be used here"),
        (["--from", "no-such-world"], "no-such-world"),
    ],
    ids=["package", "device", "index", "from"],
)
def test_bad_input_is_one_line(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "r.toml").write_text(RECIPE)
    assert main(["train", str(tmp_path / "r.toml"), "--runs", str(tmp_path), *options]) == 2
    error = capsys.readouterr().err
    assert said in error and error.startswith("exporters train: ") and error.count("\n") == 1


def test_a_folder_or_nothing_instead_of_a_recipe_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (tmp_path, tmp_path / "missing.toml"):
        assert main(["train", str(path)]) == 2
        error = capsys.readouterr().err
        assert str(path) in error and error.count("\n") == 1


def test_torchrun_leaves_every_option_to_the_command() -> None:
    """It looks for abbreviations of its own options even behind the module's name."""
    from torch.distributed.run import parse_args

    own = ["train", "r.toml", "--from", "world", "--runs", "x", "--device", "cpu", "--until", "teacher", "--shard"]
    own += ["--package", "p", "--seed", "3"]
    found = parse_args(["--standalone", "--nproc-per-node", "2", "-m", "exporters", *own])
    assert found.training_script_args == own
    assert parser().parse_args(own).start == Path("world")


def test_a_partly_recorded_folder_says_what_to_do(tmp_path: Path) -> None:
    about = {
        "name": "x",
        "frame": {"height": 8, "width": 8, "channels": 3, "fps": 10.0},
        "action_space": {"type": "Discrete", "n": 2, "names": ["a", "b"]},
        "licence": "CC0",
        "source": "test",
    }
    writer = DatasetWriter.create(tmp_path, **about)
    with pytest.raises(DatasetError, match="only partly recorded; delete it"):
        DatasetWriter.create(tmp_path, **about)
    writer.finish()
    with pytest.raises(DatasetError, match=r"already holds a dataset$"):
        DatasetWriter.create(tmp_path, **about)
