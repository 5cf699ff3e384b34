"""`ollaswarm service install|remove|status`."""

import typer

from sidecar.cli.service import install_service, plan_for_this_machine, remove_service, service_status
from sidecar.cli.session import PLAIN, DataDir, Json, told_failures
from sidecar.paths import DataPaths, default_data_dir

app = typer.Typer(help="Start the daemon with your session.", no_args_is_help=True, **PLAIN)


@app.command()
def install(json: Json = False, data_dir: DataDir = None) -> None:
    """Start the daemon now and with every session. Settings come from config.toml in the data folder."""
    with told_failures(json) as output:
        paths = DataPaths((data_dir or default_data_dir()).expanduser().absolute()).prepare()
        plan = plan_for_this_machine(paths.root)
        install_service(plan)
        text = f"Installed for {plan.manager}: {plan.file}. Settings go into {paths.config}."
        output.done(text, {"manager": plan.manager, "file": str(plan.file)})


@app.command()
def remove(json: Json = False, data_dir: DataDir = None) -> None:
    """Stop the daemon and no longer start it with the session. The data folder stays."""
    with told_failures(json) as output:
        plan = plan_for_this_machine(data_dir or default_data_dir())
        removed = remove_service(plan)
        output.done("Removed." if removed else "There was no service.", {"removed": removed})


@app.command()
def status(json: Json = False, data_dir: DataDir = None) -> None:
    """Say what the service manager knows. Exit code 1 when the service is not installed."""
    with told_failures(json) as output:
        plan = plan_for_this_machine(data_dir or default_data_dir())
        installed, said = service_status(plan)
        if json:
            output.data({"ok": installed, "manager": plan.manager, "file": str(plan.file), "said": said})
        else:
            output.line(said)
        if not installed:
            raise typer.Exit(1)
