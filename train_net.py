#!/usr/bin/env python
"""Trains and evaluates, as detectron2's own train_net.py does; `--help` has examples."""

from sar.engine import Trainer, run


def main(cfg, args):
    if args.eval_only:
        model = Trainer.load_for_evaluation(cfg, resume=args.resume)
        return Trainer.test(cfg, model)
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    run(main)
