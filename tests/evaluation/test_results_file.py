from sar.config import load_config
from sar.evaluation import results_file
from sar.evaluation.results_file import _settings, describe_run


def test_settings_that_json_cannot_hold_are_texts():
    cfg = load_config()
    cfg.TEST.EXPECTED_RESULTS = [b"mine"]
    cfg.SOLVER.BASE_LR = float("inf")
    cfg.SOLVER.STEPS = (1, 2)
    assert _settings(cfg) == {
        "TEST.EXPECTED_RESULTS": "[b'mine']",
        "SOLVER.BASE_LR": "inf",
        "SOLVER.STEPS": [1, 2],
    }


def test_weights_of_another_machine_keep_their_name(monkeypatch):
    monkeypatch.setattr(results_file, "_checksum", lambda file: "0")
    for file in ("detectron2://ImageNetPretrained/R-50.pkl", "https://host/a.pth", "/b.pth"):
        assert describe_run(load_config(), file, "none")["weights"]["file"] == file
