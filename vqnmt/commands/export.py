"""Export a model to a folder that translates without PyTorch: students to ONNX, teachers to
CTranslate2.

vqnmt export --model runs/homeassistant-en-de/student --out DIR [--precision int8]
echo "Turn on the light" | vqnmt translate --model DIR
"""

from pathlib import Path

from vqnmt.commands.command_line import PLACE, Options

from vqnmt.exporting.folder import PRECISIONS, export


def main(arguments: list[str]) -> None:
    """Export."""
    parser = Options(__doc__)
    parser.add_argument("--model", type=PLACE, required=True, help="model folder of `vqnmt train`")
    parser.add_argument("--out", type=PLACE, required=True, help="new folder, or an earlier export")
    parser.add_argument("--precision", choices=PRECISIONS, default="fp32")
    options = parser.parse_args(arguments)
    export(options.model, options.out, options.precision)
    size = sum(path.stat().st_size for path in Path(options.out).rglob("*") if path.is_file())
    print(f"exported: {options.out} ({size / 1e6:.1f} MB)")
