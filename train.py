"""Learn what good parts look like.

    python train.py                                  by config.yaml
    python train.py --category tile,wood --set unet.width=16     flags override it
    python train.py --resume                         go on with the newest run
    python train.py --add good/ --resume RUN         more good images for a finished run
    torchrun --nproc-per-node 2 train.py             several processes or GPUs

Learns from train/good of each category, and from the known defects of data.defects if that is set;
writes checkpoints/<run>/.
"""

import argparse
import sys
from dataclasses import asdict

from models import build_model, refuse_unread
from training.folders import add_run_flags
from utils.config import differences, load_config
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, overrides_from, script_parser


def parse_args() -> argparse.Namespace:
    """Return flags and settings of the command line; raises `UserError` for wrong ones."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    add_run_flags(parser)
    args = parser.parse_args()
    is_new = args.resume is None and not args.add
    if args.config is not None and not is_new:
        raise UserError("--config cannot go with --resume: the run keeps its own settings")
    args.settings = load_config(args.config, overrides_from(args))
    if is_new:
        refuse_unread(args.settings.model, differences(load_config(), args.settings))
    return args


def main() -> int:
    """Train or fit, calibrate and save; returns the exit status."""
    args = parse_args()
    # These take seconds to import; --help and wrong flags have been answered without them.
    from data.good_images import in_folds
    from inspection.calibration import calibrate_detector, looser_promise, score_drawn_defects
    from inspection.suspects import exclude, write_suspects
    from inspection.threshold import dropped, promises
    from inspection.torch_inspector import read_calibrations
    from models.detector import TrainedDetector
    from training import distributed
    from training.folders import FINISHED
    from training.loop import finish, fit, pick_micro_batch, seed_step, train
    from training.run import Run
    from utils.device import place

    run = Run.from_flags(args)
    if run.complete:
        print(f"{run.folder} is finished; --epochs lengthens a training")
        return 0
    distributed.start(run.device)
    run.set_size()
    seed_step(run.config.seed, epoch=-1, step=-1)
    model = place(build_model(run.config), run.device)
    is_network = isinstance(model, TrainedDetector)
    optimizer = model.optimizer() if is_network else None
    if is_network and run.folder is not None:
        run.restore(model, optimizer)
    else:  # a new run, or a fit, which starts over
        model.load_pretrained()
    if run.folder is not None:
        former = read_calibrations(run.folder / "last.pt", run.checkpoint)
        if (line := dropped(former, "the detector learns on")) and distributed.is_writer():
            print(line, file=sys.stderr)

    images = run.load_images(hold_out=is_network)
    if defects := run.load_known_defects(images):
        model.take_defects(defects)
    images = exclude(run, images)
    with model.caching():
        learned = train(run, model, optimizer, images) if is_network else fit(run, model, images)
        if learned:
            # More at once gain nothing on a CPU; a GPU has room for as many as in training.
            at_once = 1 if run.device.type == "cpu" else pick_micro_batch(run.config, run.device)
            folds = in_folds(images, run.good, at_once, run.device)
            finish(run, model, folds)
            if distributed.is_writer():
                calibrations = calibrate_detector(model, images, run.good, folds)
    if not learned:
        # A finished fit that images were to be added to has not been touched.
        untouched = (run.folder / FINISHED).exists()
        way = f"go on with: python train.py --resume {run.folder}"
        run.say(f"stopped; {f'{run.folder} is as it was' if untouched else way}")
    elif distributed.is_writer():
        run.save(model, optimizer, {name: asdict(one) for name, one in calibrations.items()})
        if run.config.train.log is not None:
            from inspection.panel import log_panels

            log_panels(run)
        print(promises(calibrations))
        # Once the run is saved: whatever goes wrong here, what was learned is kept.
        drawn = score_drawn_defects(model, images, run.good, folds)
        if line := looser_promise(calibrations, drawn, run.folder):
            print(line)
        write_suspects(run, calibrations, folds)
        print(f"next: python eval.py --checkpoint {run.folder}")
    distributed.stop()
    return 0 if learned else 130


if __name__ == "__main__":
    run_script(main)
