"""The page of a study."""

from sar.study.page import _loss_of_head


def test_the_loss_of_the_head_may_have_several_terms():
    others = {"iteration": [1.0, 2.0], "loss_sar_pull": [3.0, 3.0], "loss_sem_seg_aux": [5.0, 5.0]}
    assert _loss_of_head(others | {"loss_sem_seg": [2.0, 1.0]}) == [2.0, 1.0]
    terms = {"loss_sem_seg_cross_entropy": [2.0, 1.0], "loss_sem_seg_dice": [0.5, 0.25]}
    assert _loss_of_head(others | terms) == [2.5, 1.25]
