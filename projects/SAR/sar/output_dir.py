"""The names of what lies in OUTPUT_DIR, the folder of a run.

config.yaml                     what it was trained with
log.txt, log.txt.rank1, ...     what each process said
metrics.json                    a line of scalars every few iterations
events.out.tfevents.*           the same, and pictures, for TensorBoard
class_frequency.json            how frequent each class is in its training set
model_*.pth                     its checkpoints, see `sar.engine.checkpoint`
last_checkpoint                 the name of the one to resume from
inference/DATA_SET/             of each data set that it was evaluated on,
    sem_seg_evaluation.json         metrics and confusion matrix
    sem_seg_predictions.json        predictions, with TEST.SAVE_JSON
inference/class_frequency.json  as above, where only evaluations were run
previous/                       checkpoints, metrics and evaluations of an earlier training
"""

CONFIG = "config.yaml"
LOG = "log.txt"
METRICS = "metrics.json"
CLASS_FREQUENCY = "class_frequency.json"
LAST_CHECKPOINT = "last_checkpoint"
INFERENCE = "inference"
EVALUATION = "sem_seg_evaluation.json"
PREVIOUS = "previous"
