"""The command `mcjepa-client`."""

import argparse
import errno
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias, get_args

from mcjepa_client._base import (
    API_KEY_VARIABLE,
    DEFAULT_MAX_RETRIES,
    DEFAULT_SERVER,
    DEFAULT_TIMEOUT,
    SERVER_VARIABLE,
)
from mcjepa_client._cli_video import BatchError, add_commands
from mcjepa_client._client import Client
from mcjepa_client._errors import ConnectionFailedError, InputError, McjepaError, ServiceUnavailableError
from mcjepa_client._requests import OnError
from mcjepa_client._results import Direction, FlowFormat, Quality, choose_embed_format, choose_flow_format
from mcjepa_client._streams import complain, open_standard_streams, say
from mcjepa_client._version import __version__
from mcjepa_client.flow_viz import check_max_flow, largest_motion

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_INTERRUPTED = 130

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"

_EPILOG = f"""\
exit codes:
  0  done
  1  the server refused the request, an image or a video is damaged, or the output could not be written
  2  wrong usage or unusable input; nothing was sent
  3  the server cannot be reached or is not ready
  130  interrupted with Ctrl-C

The server is --server, else the environment variable {SERVER_VARIABLE}, else {DEFAULT_SERVER}.
An API key, where the server asks for one, is read from {API_KEY_VARIABLE}: arguments can be seen by others.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors are one line on standard error."""
    open_standard_streams()
    arguments = _parser().parse_args(argv)
    command: Callable[[argparse.Namespace], None] = arguments.command
    try:
        command(arguments)
    except (McjepaError, OSError) as error:
        complain(f"error: {_full_disk(error, arguments) or error}")
        return _exit_code(error)
    except KeyboardInterrupt:
        complain("interrupted")
        return EXIT_INTERRUPTED
    return EXIT_OK


def _full_disk(error: Exception, arguments: argparse.Namespace) -> str:
    """What is to be said if that is the reason; the system's words name no file."""
    if not isinstance(error, OSError) or error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return ""
    output = getattr(arguments, "output", "standard output")
    return (
        f"{output}: no room on the disk ({error.strerror}); what is there is whole, "
        "and the same command goes on when there is room"
    )


def _exit_code(error: McjepaError | OSError) -> int:
    if isinstance(error, InputError):
        return EXIT_USAGE
    unreachable = isinstance(error, ConnectionFailedError | ServiceUnavailableError) or (
        isinstance(error, BatchError) and error.is_unreachable
    )
    return EXIT_UNREACHABLE if unreachable else EXIT_FAILED


def _flow(arguments: argparse.Namespace) -> None:
    format = choose_flow_format(arguments.output, arguments.format)
    if format != "npz" and (arguments.occlusion or arguments.direction == "both"):
        raise InputError(f"--output: {format} holds one field; --occlusion and --direction both need .npz")
    check_max_flow(arguments.max_flow)
    _check_folder(arguments.output)
    with _connect(arguments) as client:
        result = client.flow(
            arguments.img1,
            arguments.img2,
            direction=arguments.direction,
            occlusion=arguments.occlusion,
            max_side=arguments.max_side,
            quality=arguments.quality,
        )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result.save(arguments.output, format=format, max_flow=arguments.max_flow)
    for warning in caught:
        complain(f"warning: {warning.message}")
    height, width = result.flow.shape[:2]
    say(f"{arguments.output}: flow of {width}x{height}, longest vector {largest_motion(result.flow):.1f} px")


def _embed(arguments: argparse.Namespace) -> None:
    choose_embed_format(arguments.output)
    _check_folder(arguments.output)
    with _connect(arguments) as client:
        result = client.embed(arguments.images, dimensions=arguments.dimensions, on_error=arguments.on_error)
    result.save(arguments.output)
    rows, columns = result.embeddings.shape
    say(f"{arguments.output}: {rows} x {columns} embeddings of model {result.model}")
    for error in result.failed:
        complain(f"skipped: {error}")
    if result.failed:
        raise McjepaError(f"{len(result.failed)} of {len(arguments.images)} images have no embedding")


def _info(arguments: argparse.Namespace) -> None:
    with _connect(arguments) as client:
        info = client.info()
    say(json.dumps(info, indent=2, ensure_ascii=False))


def _connect(arguments: argparse.Namespace) -> Client:
    return Client(arguments.server, timeout=arguments.timeout, max_retries=arguments.retries)


def _check_folder(output: Path) -> None:
    """A missing folder is found before computing, not after."""
    if not output.absolute().parent.is_dir():
        raise InputError(f"--output: the folder of {output} does not exist")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mcjepa-client",
        description="Optical flow and image embeddings from an mcjepa server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    common = _common_options()
    _add_flow(commands, common)
    _add_embed(commands, common)
    add_commands(lambda name, text: _add(commands, common, name, text), _connect)
    info = _add(commands, common, "info", "show the server's version, weights, limits and formats, as JSON")
    info.set_defaults(command=_info)
    return parser


def _common_options() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    group = common.add_argument_group("server")
    group.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help=f"for example {DEFAULT_SERVER} (the default); given several times, they are asked in turn",
    )
    group.add_argument(
        "--timeout",
        type=float,
        default=DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="wait this long for progress (default %(default)g)",
    )
    group.add_argument(
        "--retries",
        type=int,
        default=DEFAULT_MAX_RETRIES,
        metavar="N",
        help="further attempts when the server is busy or unreachable (default %(default)d)",
    )
    return common


def _add(
    commands: Commands, common: argparse.ArgumentParser, name: str, text: str
) -> argparse.ArgumentParser:
    return commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        parents=[common],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def _add_flow(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = _add(commands, common, "flow", "compute the optical flow between two frames of the same size")
    parser.set_defaults(command=_flow)
    parser.add_argument("img1", metavar="IMG1", help="image file")
    parser.add_argument("img2", metavar="IMG2", help="image file, as large as IMG1")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".flo (Middlebury), .npy, .npz (all arrays) or .png (colours)",
    )
    parser.add_argument(
        "--format", choices=get_args(FlowFormat), help="whatever the extension; kitti is KITTI's 16-bit PNG"
    )
    parser.add_argument(
        "--direction",
        choices=get_args(Direction),
        default="forward",
        help="forward is IMG1 to IMG2 (the default); of both, only .npz holds the second field",
    )
    parser.add_argument("--occlusion", action="store_true", help="also compute the occlusion mask, for .npz")
    parser.add_argument("--max-side", type=int, metavar="PX", help="compute at most at this longer side")
    parser.add_argument(
        "--quality", choices=get_args(Quality), help="how much is computed (default: the server's)"
    )
    parser.add_argument(
        "--max-flow", type=float, metavar="PX", help="for .png: length of full colour (default: the longest)"
    )


def _add_embed(commands: Commands, common: argparse.ArgumentParser) -> None:
    parser = _add(commands, common, "embed", "compute the embeddings of images")
    parser.set_defaults(command=_embed)
    parser.add_argument("images", nargs="+", metavar="IMG", help="image file; sizes may differ")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help=".npy, .npz or .json; one row per image, in the order given",
    )
    parser.add_argument(
        "--on-error",
        choices=get_args(OnError),
        default="raise",
        help="skip: leave out images that cannot be read or decoded, name them, and exit with 1 in the end",
    )
    parser.add_argument("--dimensions", type=int, metavar="N", help="keep only the first N numbers")
