"""`usermirrorer serve`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.network import is_loopback
from usermirrorer.recipes.simulator.commands import load, model_options

if TYPE_CHECKING:
    import socket

_FILE = click.Path(path_type=Path)


@click.command(
    context_settings={"show_default": True},
    epilog="Example:  usermirrorer serve --model runs/simulator",
)
@click.option("--export-space", type=_FILE, help="Write the page as a static Space, and stop.")
@click.option("--endpoint", default="", help="Of --export-space: the service that it asks.")
@click.option("--title", default="User simulator", help="Of --export-space.")
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option("--port", default=8765, help="Port to listen on; 0: any that is free.")
@click.option(
    "--token",
    envvar="USERMIRRORER_SERVE_TOKEN",
    default="",
    help="What requests must carry; better by USERMIRRORER_SERVE_TOKEN, which nobody sees.",
)
@click.option(
    "--allow-origin", "origins", multiple=True, help="Page elsewhere that may ask; repeat."
)
@click.option(
    "--queue",
    default=256,
    type=click.IntRange(1),
    help="Questions that may wait; more are refused (429).",
)
@click.option("--guided", is_flag=True, help="Force the headings (for very small models).")
@click.option("--calibrated", is_flag=True, help="Apply the calibration beside the model.")
@click.option("--calibration", type=_FILE, help="Apply a calibration that lies elsewhere.")
@click.option("--name", default="", help="What clients call the model.  [default: of --model]")
@model_options
def serve(
    export_space: Path | None,
    endpoint: str,
    title: str,
    host: str,
    port: int,
    token: str,
    origins: tuple[str, ...],
    queue: int,
    guided: bool,
    calibrated: bool,
    calibration: Path | None,
    name: str,
    **options: Any,
) -> None:
    """Serve a simulator: a page for people at /, an API for programs (/docs).

    POST /v1/choose answers one scene or many, /v1/chat/completions clients of OpenAI's API. On
    SIGTERM what was accepted is finished.
    """
    if export_space:
        from usermirrorer.recipes.service.space import export_space as export

        click.echo(export(export_space, endpoint=endpoint, title=title))
        return
    run = _runner()
    from usermirrorer.hub.commands import in_address, listen
    from usermirrorer.recipes.service.app import create_app

    listener = listen(host, port)
    simulator = load(options, calibrated=calibration or calibrated)
    # The folders of this machine are nobody's business.
    local = Path(simulator.name).exists()
    called = name or (Path(simulator.name).resolve().name if local else simulator.name)
    app = create_app(
        simulator,
        name=called,
        token=token,
        origins=origins,
        most_waiting=queue,
        guided=guided,
        loopback=is_loopback(host),
    )
    if not is_loopback(host) and not token:
        click.echo(
            f"Warning: {host} can be reached from other machines, and asks no token.", err=True
        )
    click.echo(f"http://{in_address(host)}:{listener.getsockname()[1]}")
    run(app, listener)


def _runner() -> Callable[[Any, socket.socket], None]:
    """Return what serves an application on a socket until it is told to stop.

    Raises:
        UserError: if the web server is not installed.
    """
    try:
        import uvicorn

        from usermirrorer.hub.server.uvicorn_internals import Protocol
    except ImportError:
        raise UserError("serving needs more", fix="pip install 'usermirrorer[hub]'") from None

    def run(app: Any, listener: socket.socket) -> None:
        settings = uvicorn.Config(
            app, http=Protocol, log_level="warning", access_log=False, server_header=False
        )
        uvicorn.Server(settings).run([listener])

    return run
