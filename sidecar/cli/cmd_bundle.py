"""`ollaswarm export` and `import`: an adapter as one file, for machines without a network."""

from pathlib import Path
from typing import Annotated

import typer

from sidecar.cli.output import human_bytes
from sidecar.cli.session import DataDir, Json, daemon_session


def export(
    ref: Annotated[
        str, typer.Argument(metavar="REF", help="Name, publisher/name, or unique prefix of an entry digest.")
    ],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write.")],
    with_base: Annotated[bool, typer.Option("--with-base", help="Put the base model's weights in too.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Write an adapter that this machine holds, with its signature, into one file."""
    with daemon_session(json, data_dir) as (client, output):
        path = str(file.expanduser().absolute())
        request = {"ref": ref, "path": path, "with_base": with_base, "overwrite": force}
        written = client.post("/bundles/export", request)
        base = " with its base" if written["has_base"] else ""
        size = human_bytes(written["size"])
        output.done(f"Wrote {written['ref']} version {written['version']}{base} to {path} ({size}).", written)


def import_file(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File that `ollaswarm export` wrote.")],
    as_name: Annotated[
        str | None, typer.Option("--as", metavar="NAME", help="Name of the new model in Ollama.")
    ] = None,
    no_install: Annotated[bool, typer.Option("--no-install", help="Verify and keep it only.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    json: Json = False,
    data_dir: DataDir = None,
) -> None:
    """Verify such a file, and make its adapter a model in Ollama; its base too, if it is in there and missing here."""
    with daemon_session(json, data_dir) as (client, output):
        path = str(file.expanduser().absolute())
        request = {"path": path, "as_name": as_name, "install": not no_install, "force": force}
        done = client.post("/bundles/import", request)
        result = done["result"]
        if done["base_installed"]:
            output.line(f"Made the base model {done['base_installed']}.")
        name = result["installed_as"]
        what = f"Installed {name}" if name else f"Verified {done['ref']}: {result['path']}"
        output.done(f"{what} (version {done['version']} by {done['publisher'][:12]}).", done)
