"""`ollaswarm demo`: the main job end to end, with everything it needs made for it and gone afterwards."""

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from sidecar.cli.output import Output
from sidecar.cli.session import Json
from sidecar.errors import SidecarError


def demo(json: Json = False) -> None:
    """Show the main job on this machine: noticed, announced, fetched, verified, installed, and a liar refused."""
    from ollama_bridge.errors import OllamaBridgeError
    from sidecar.bridge_errors import translate
    from sidecar.demo.steps import Steps
    from sidecar.demo.story import tell

    # With --json, standard output has the result and nothing else; people read on standard error.
    shown = Output(False, out=sys.stderr) if json else Output(False)
    steps = Steps(shown)
    answer: dict[str, Any] = {"ok": True}
    _end_like_ctrl_c()
    try:
        with tempfile.TemporaryDirectory(prefix="ollaswarm-demo-", ignore_cleanup_errors=True) as folder:
            result = tell(Path(folder).resolve(), steps)
        answer |= {"digest": result.digest, "size": result.size, "route": result.route}
        answer |= {"installed_as": result.installed_as}
        shown.line(f"All of it worked, in {sum(step.seconds for step in steps.done):.1f} s.")
    except SidecarError as error:
        answer = _failed(error, shown)
    except OllamaBridgeError as error:
        answer = _failed(translate(error), shown)
    except KeyboardInterrupt:
        answer = _failed(SidecarError("The demo was interrupted.", "Everything it started is gone."), shown)
    except Exception as error:  # whatever it was, the last line must say so
        answer = _failed(SidecarError(f"An unforeseen error: {error!r}."), shown)
    if json:
        Output(True).data(answer | {"steps": [step.to_json() for step in steps.done]})
    if not answer["ok"]:
        raise typer.Exit(1)


def _failed(error: SidecarError, shown: Output) -> dict[str, Any]:
    shown.failure(error)
    return {"ok": False, "error": error.to_json()}


def _end_like_ctrl_c() -> None:
    """A closed terminal or `kill` must not leave daemons behind either."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        if (number := getattr(signal, name, None)) is not None:
            signal.signal(number, interrupt)
