"""`ollaswarm demo`: both acts, with everything they need made for them and gone afterwards."""

import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sidecar.cli.output import Output
from sidecar.cli.session import Json
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from sidecar.demo.steps import Steps


def demo(
    act: Annotated[int | None, typer.Option("--act", min=1, max=2, help="Only this one.")] = None, json: Json = False
) -> None:
    """Show the main job on this machine, in two acts.

    One: two machines of one network. An adapter is noticed, announced, fetched, verified and installed, and a liar refused.

    Two: three machines that meet through a DHT of their own. A private room, two publishers, and one that follows both.
    """
    from ollama_bridge.errors import OllamaBridgeError
    from sidecar.bridge_errors import translate
    from sidecar.demo.steps import Steps

    # With --json, standard output has the result and nothing else; people read on standard error.
    shown = Output(False, out=sys.stderr) if json else Output(False)
    steps = Steps(shown)
    answer: dict[str, Any] = {"ok": True}
    _end_like_ctrl_c()
    try:
        with tempfile.TemporaryDirectory(prefix="ollaswarm-demo-", ignore_cleanup_errors=True) as folder:
            for number, play in enumerate((_first_act, _second_act), 1):
                if act in (None, number):
                    answer |= play(Path(folder).resolve(), steps)
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


def _first_act(folder: Path, steps: "Steps") -> dict[str, Any]:
    from sidecar.demo.first_act import play

    steps.output.line("One: two machines of one network")
    (folder / "1").mkdir()
    result = play(folder / "1", steps)
    answer = {"digest": result.digest, "size": result.size}
    return answer | {"route": result.route, "installed_as": result.installed_as}


def _second_act(folder: Path, steps: "Steps") -> dict[str, Any]:
    from sidecar.demo.second_act import play

    steps.output.line("Two: three machines anywhere, which a DHT brings together")
    (folder / "2").mkdir()
    followed = play(folder / "2", steps)
    times = {"first_s": round(followed.first_s, 3), "update_s": round(followed.update_s, 3)}
    return {"auto_sync": {"installed": list(followed.installed)} | times}


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
