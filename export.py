"""Export a trained detector to one ONNX file, which gives its verdicts without torch.

    python export.py                                the newest run
    python export.py --category wood --half         weights in 16 bits
    python export.py --checkpoint checkpoints/<run> --int8
    python infer.py --checkpoint checkpoints/<run>/<run>.onnx part.png

The file takes images [B, 3, H, W], float32 RGB in [0, 1], and gives anomaly_map [B, 1, H, W],
score [B] and, where the detector has one, reconstruction. Its metadata hold the settings, the
thresholds and the range of colours. It is compared with the checkpoint on real images before it is
kept. --half and --int8 carry the thresholds over to the scores of the smaller file, and say what it
costs in AUROC and gains in speed.
"""

import argparse
from pathlib import Path

from inspection.open_run import (
    add_category_flag,
    named_run,
    open_categories,
    parse_checked,
    select_categories,
)
from training.folders import FORMAT, named_checkpoint, run_name
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, file_or_folder, script_parser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=named_checkpoint, metavar="RUN", help="run folder or its last.pt")
    text = "default: checkpoints/<run>/<run>.onnx"
    add("--output", type=file_or_folder, metavar="FILE", help=text)
    smaller = parser.add_mutually_exclusive_group()
    add_smaller = smaller.add_argument
    kind = {"dest": "kind", "action": "store_const", "default": ""}
    add_smaller("--half", **kind, const="half", help="weights and sums in float16")
    add_smaller("--int8", **kind, const="int8", help="convolutions in 8 bits")
    add_category_flag(parser)
    add_setting_flags(parser, ["--model", "--data-root"])
    return parse_checked(parser)


def check_output(file: Path) -> None:
    """Raise `UserError` if an export cannot go by this name, or would replace another file."""
    if file.suffix != ".onnx":
        raise UserError(f"--output is {file} but should end in .onnx, by which exports are known")
    # Neither a folder nor a pipe can be read; a pipe would wait.
    is_export = file.is_file() and FORMAT.encode() in file.read_bytes()
    if file.exists() and not is_export:
        raise UserError(f"{file} is none of export.py, and is not overwritten; name another file")


def main() -> int:
    """Export, compare, and keep the file only if it agrees; returns the exit status."""
    args = parse_args()
    from evaluation.exports import compare, images_to_check, shrink  # slow, as all from here on
    from inspection.onnx_export import write_metadata, write_onnx
    from inspection.onnx_inspector import OnnxInspector
    from inspection.torch_inspector import TorchInspector

    file = named_run(args)
    checkpoint = TorchInspector(file, "cpu")
    select_categories(checkpoint, args)
    categories = open_categories(args, checkpoint)
    paths = checkpoint.good.paths(vars(args)["data.root"] or checkpoint.config.data.root)
    of_category = checkpoint.good.by_category()
    good = {one.name: [paths[index] for index in of_category[one.name]] for one in categories}
    name = run_name(file) + (f"-{args.kind}" if args.kind else "")
    output = args.output or file.parent / f"{name}.onnx"
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under other names until they have shown that they agree.
    whole = output.with_name(f".{output.stem}.whole.onnx")
    smaller = output.with_name(f".{output.stem}.smaller.onnx")
    try:
        print(f"{checkpoint.config.model} on {', '.join(good)}, {file}: writing the graph")
        write_onnx(checkpoint.detector, whole)
        write_metadata(whole, checkpoint, checkpoint.calibrations)
        exported = OnnxInspector(whole, "cpu")
        compare(exported, checkpoint, images_to_check(checkpoint, categories, good))
        if args.kind:
            shrink(args.kind, exported, checkpoint, good, categories, smaller)
        (smaller if args.kind else whole).replace(output)
    finally:
        whole.unlink(missing_ok=True)
        smaller.unlink(missing_ok=True)
    print(f"done: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    print(f"next: python infer.py --checkpoint {output}")
    return 0


if __name__ == "__main__":
    run_script(main)
