"""OpenECG's detector: the package's own file, the same numbers as TFLite's interpreter."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from torch import Tensor

from enecg import experts
from enecg.config import ExpertSettings, parse_config
from enecg.errors import UserError
from enecg.experts.openecg import WIDTH, OpenECG, ranked
from tests.expert_signals import ecg_like


@pytest.fixture(scope="module")
def expert() -> OpenECG:
    """With the weights that the package ships."""
    loaded = experts.load("openecg")
    assert isinstance(loaded, OpenECG)
    return loaded


def interpreter(path: Path) -> Any:
    """TFLite's own interpreter, with the tensors inside kept."""
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that keeping them costs memory
        made = Interpreter(str(path), num_threads=1, experimental_preserve_all_tensors=True)
    made.allocate_tensors()
    return made


def test_frames_are_those_of_the_tflite_interpreter(expert: OpenECG) -> None:
    tflite = interpreter(OpenECG.packaged())
    [given], (classes, _) = tflite.get_input_details(), tflite.get_output_details()
    # The layer before the output layer: its only input that is 500 frames wide.
    [last] = [one for one in tflite.get_tensor_details() if one["index"] == 396]
    assert last["shape"].tolist() == [1, 500, WIDTH] and classes["shape"].tolist() == [1, 500, 4]
    x_BLT = expert.prepare(ecg_like(2))
    for x_T in x_BLT.flatten(0, 1):
        tflite.set_tensor(given["index"], x_T[None].numpy())
        tflite.invoke()
        wanted = tflite.get_tensor(396)
        with torch.no_grad():
            found = expert.network(x_T[None]).numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())


def test_the_file_is_the_one_whose_hash_is_published(expert: OpenECG) -> None:
    assert expert.weight_files == dict(OpenECG.published)
    assert expert.provenance()["pretraining_corpora"] == ["ludb", "qtdb", "isp"]
    assert expert.spec.parameters == 1_052_800


def test_features_are_mean_and_deviation_of_four_leads(expert: OpenECG) -> None:
    x_BLT = ecg_like(2)
    with torch.no_grad():
        f_BD = expert.features(x_BLT)
        h_SD = expert.network(expert.prepare(x_BLT)[1, 2:3])[0]  # record 1, V1
    of_v1 = f_BD.unflatten(1, (4, 2 * WIDTH))[1, 2]
    torch.testing.assert_close(of_v1[:WIDTH], h_SD.mean(0))
    torch.testing.assert_close(of_v1[WIDTH:], h_SD.std(0, correction=0))


def test_amplitude_and_offset_change_nothing(expert: OpenECG) -> None:
    x_BLT = ecg_like(2)
    torch.testing.assert_close(expert.prepare(4 * x_BLT + 1), expert.prepare(x_BLT))


def test_ranks_are_scipys_with_ties_averaged() -> None:
    values = torch.randint(0, 50, (3, 2, 400), generator=torch.Generator().manual_seed(0)).float()
    wanted = (rankdata(values.numpy(), axis=-1) - 1) / 399 * 2 - 1
    np.testing.assert_allclose(ranked(values).numpy(), wanted, atol=1e-7)
    assert (ranked(torch.ones(1, 1, 10)) == 0).all()


def test_random_weights_on_request_are_others_and_are_not_called_pretrained(
    expert: OpenECG,
) -> None:
    random = experts.load("openecg", experts.RANDOM)
    assert random.weight_files == {}
    assert random.provenance()["pretraining_corpora"] == []
    assert random.fingerprint() != expert.fingerprint()


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install --no-deps openecg"):
        experts.load("openecg")
    experts.load("openecg", experts.RANDOM)


def damaged(content: bytes, how: str) -> bytes:
    return {
        "empty": b"",
        "another kind": b"PK\x03\x04" + content,
        "cut": content[: len(content) // 2],
        "cut by a little": content[:-5000],
    }[how]


@pytest.mark.parametrize("how", ["empty", "another kind", "cut", "cut by a little"])
def test_a_damaged_file_is_refused_in_one_line(how: str, tmp_path: Path) -> None:
    path = tmp_path / "boundary_int8.tflite"
    path.write_bytes(damaged(OpenECG.packaged().read_bytes(), how))
    with pytest.raises(UserError, match="not the detector of openecg"):
        experts.load("openecg", path)


def test_the_codecs_trained_on_ptb_xl_are_refused(tmp_path: Path) -> None:
    path = shutil.copy(OpenECG.packaged(), tmp_path / "codec_v6.pt")
    with pytest.raises(UserError, match="trained on PTB-XL"):
        experts.load("openecg", path)


def test_joined_takes_it_with_its_weights() -> None:
    x_BLT = ecg_like(2)
    joined = experts.load("joined", of=["openecg", {"rocket": {"kernels": 8}}])
    alone = experts.load("openecg")
    with torch.no_grad():
        f_BD: Tensor = joined.features(x_BLT)
        torch.testing.assert_close(f_BD[:, : alone.spec.width], alone.features(x_BLT))
    assert joined.provenance()["pretraining_corpora"] == ["ludb", "qtdb", "isp"]
    random = experts.load("joined", of=[{"openecg": {"weights": "random"}}, "rocket"])
    assert random.weight_files == {} and random.fingerprint() != joined.fingerprint()


def test_random_stays_a_word_where_paths_are_made_absolute() -> None:
    values = {
        "records": "store", "run_dir": "run", "tasks": ["age"],
        "experts": {"openecg": {"weights": "random"}, "moment": {"weights": "w"}},
    }  # fmt: skip
    found: dict[str, ExpertSettings] = parse_config(values).located().experts
    assert found["openecg"].weights == "random"
    assert found["moment"].weights == str(Path("w").absolute())
