#!/usr/bin/env python
"""Train and evaluate like detectron2's own train_net.py; `--help` has examples."""

from sar.training.launch import run


def main(cfg, args):
    from sar.training.trainer import Trainer

    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    if args.eval_only:
        model = Trainer.load_for_evaluation(cfg, resume=args.resume)
        results = Trainer.test(cfg, model)
        if cfg.TEST.EXPECTED_RESULTS and comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    run(main)
