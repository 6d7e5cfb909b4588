"""Notes from one start to the next under torchrun. torchrun itself is in test_launch."""

import pytest
from torch.distributed import TCPStore

from sar.errors import InputError
from sar.training.restart import goes_on, note_begun
from sar.training.trainer import Trainer

from ..runs import prepared


@pytest.fixture
def agent(monkeypatch):
    """Return the store of a torchrun that has restarted its processes once."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for name, value in (
        ("TORCHELASTIC_USE_AGENT_STORE", "True"),
        ("TORCHELASTIC_RESTART_COUNT", "1"),
        ("MASTER_ADDR", "127.0.0.1"),
        ("MASTER_PORT", str(store.port)),
    ):
        monkeypatch.setenv(name, value)
    return store


def test_a_training_has_begun_when_output_dir_is_its_own(agent, overrides, tmp_path):
    trainer = Trainer(prepared(overrides))
    trainer.cfg.defrost()
    trainer.cfg.MODEL.WEIGHTS = str(tmp_path / "nowhere.pth")
    with pytest.raises(InputError, match="nowhere.pth"):
        trainer.resume_or_load(resume=False)
    assert not goes_on()
    trainer.cfg.MODEL.WEIGHTS = ""
    trainer.resume_or_load(resume=False)
    assert not goes_on()
    trainer.train()
    assert goes_on()


def test_without_a_store_that_lives_as_long_as_the_launch(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    note_begun()
    for restarts in (0, 1):
        monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
        assert goes_on() == bool(restarts)
