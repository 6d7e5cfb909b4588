from sar.config import load_config
from sar.evaluation.results_file import _settings


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
