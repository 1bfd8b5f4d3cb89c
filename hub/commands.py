"""Commands `usermirrorer release ...` and `usermirrorer hub ...`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from usermirrorer.builders.common.disks import writing
from usermirrorer.builders.common.errors import UserError
from usermirrorer.builders.common.network import is_loopback
from usermirrorer.builders.common.tables import json_option, show, show_json

if TYPE_CHECKING:
    import socket

    from usermirrorer.hub.server.folders import Finding

_FOLDER = click.Path(path_type=Path)


@click.group()
def release() -> None:
    """Build, publish, fetch, compare and prove versions of a dataset or a model."""


@release.command("build")
@click.argument("folder", type=_FOLDER)
@click.option("--repo", "repo_id", required=True, help="Repository it is meant for.")
@click.option("--version", required=True, help="Semantic version, e.g. 1.0.0.")
@click.option("--preference", type=_FOLDER, required=True, help="Parquet file of pairs.")
@click.option("--train", type=_FOLDER, help="Parquet file of train scenes.")
@click.option("--test", type=_FOLDER, help="Parquet file of test scenes.")
@click.option(
    "--placebo-train",
    type=_FOLDER,
    help="Parquet file of their placebos.  [default: placebo_NAME beside NAME of --train]",
)
@click.option(
    "--placebo-test",
    type=_FOLDER,
    help="Parquet file of their placebos.  [default: placebo_NAME beside NAME of --test]",
)
@click.option("--paper-train", type=_FOLDER, help="Train scenes with the paper's exposures.")
@click.option("--paper-test", type=_FOLDER, help="Test scenes with the paper's exposures.")
@click.option("--manifest", type=_FOLDER, required=True, help="JSON: where the rows came from.")
@click.option("--plot", "plots", type=_FOLDER, multiple=True, help="Plot for the card.")
@click.option("--since", type=_FOLDER, help="Folder of the release before, for the changelog.")
@click.option(
    "--redistributable/--not-redistributable",
    default=False,
    show_default=True,
    help="Whether the sources allow their texts in a public repository.",
)
@click.option(
    "--allow-tells",
    is_flag=True,
    help="Release exposures that tell their targets; the card says so in its first lines.",
)
def build_command(folder: Path, **options: Any) -> None:
    """Write a release FOLDER; the same inputs give the same bytes.

    The exposures are audited (`usermirrorer validate --audit`), and what is found is in the
    manifest and the card. Where something else than the person tells the targets there is no
    release, unless with --allow-tells.
    """
    from usermirrorer.builders.audit.load import placebo_beside
    from usermirrorer.builders.common.storage import read_json, read_record
    from usermirrorer.hub import releases

    scenes = _splits(options, "")
    if options["redistributable"]:
        _check_public(scenes)
    placebo = placebo_beside(scenes) | _splits(options, "placebo_")
    manifest = read_json(options["manifest"])
    if made_from := read_record(options["preference"]):
        manifest.setdefault("pairs", made_from)
    if own := _own_sources(scenes):
        manifest["own_sources"] = own
    if scenes:
        manifest["audit"] = _audit(scenes, placebo, options["allow_tells"])
    paper = _splits(options, "paper_")
    if paper:  # they are known to tell: that is reported, and stops nothing
        manifest["audit_paper"] = _audit(paper, placebo_beside(paper), allow_tells=True)
    releases.write_release(
        folder,
        repo_id=options["repo_id"],
        version=options["version"],
        preference=options["preference"],
        scenes=scenes,
        placebo=placebo,
        paper=paper,
        manifest=manifest,
        assets={path.name: path for path in options["plots"]},
        redistributable=options["redistributable"],
        changelog_from=options["since"],
    )
    click.echo(folder)


def _own_sources(scenes: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return what the YAML of own logs says of itself, by its name: the card shows it."""
    from usermirrorer.builders.common.storage import read_json

    files = {path.parent / "scenes.json" for path in scenes.values()}
    made = [read_json(file) for file in sorted(files) if file.is_file()]
    return {told["source"]: told["about"] for told in made if "about" in told}


def _check_public(scenes: Mapping[str, Path]) -> None:
    """Refuse --redistributable where a domain's own YAML does not allow its texts in public."""
    from usermirrorer.builders.common.storage import read_json

    for path in scenes.values():
        made = path.parent / "scenes.json"
        if made.is_file() and read_json(made).get("redistributable") is False:
            raise UserError(
                "the YAML of these scenes does not allow their texts in public",
                where=path,
                fix="Say `public: true` there and build again, or leave --redistributable out.",
            )


def _splits(options: Mapping[str, Path | None], prefix: str) -> dict[str, Path]:
    """Return split -> file of the options whose names begin so."""
    files = ((split, options[prefix + split]) for split in ("train", "test"))
    return {split: path for split, path in files if path}


def _audit(
    scenes: Mapping[str, Path], placebo: Mapping[str, Path], allow_tells: bool
) -> dict[str, Any]:
    """Return what the audit found.

    Raises:
        UserError: if there are tells that are not allowed.
    """
    from usermirrorer.builders.audit.load import read_files
    from usermirrorer.builders.audit.report import assert_no_tells, audit, sources
    from usermirrorer.builders.common.progress import bar

    real, fake = read_files(scenes, placebo)
    with bar("audit", len(sources(real))) as advance:
        report = audit(real, fake, allow_tells=allow_tells, progress=advance)
    assert_no_tells(report)
    for name, source in report["sources"].items():
        click.echo(f"audit, {name}: {source['verdict']}: {'; '.join(source['why'])}", err=True)
    return report


@release.command("push")
@click.argument("folder", type=_FOLDER)
@click.argument("repo_id")
@click.option("--private", is_flag=True, help="Make a new repository private.")
@click.option("--gated", is_flag=True, help="Readers must sign in and accept (datasets).")
@click.option("--model", is_flag=True, help="FOLDER is a model, not a dataset release.")
@click.option("--version", help="Version of a model; a dataset release knows its own.")
def push_command(
    folder: Path, repo_id: str, model: bool, version: str | None, **options: bool
) -> None:
    """Publish FOLDER to REPO_ID: one commit, then the tag."""
    from usermirrorer.hub import releases

    if model and not version:
        raise UserError("a model needs a version", fix="Add --version 1.0.0.")
    if model:
        click.echo(
            releases.push_model(folder, repo_id, version=str(version), private=options["private"])
        )
    else:
        click.echo(releases.push(folder, repo_id, **options))


@release.command("pull")
@click.argument("repo_id")
@click.argument("version")
@click.argument("folder", type=_FOLDER)
def pull_command(repo_id: str, version: str, folder: Path) -> None:
    """Download VERSION of REPO_ID into FOLDER and prove every hash."""
    from usermirrorer.hub import releases

    click.echo(releases.pull(repo_id, version, folder))


@release.command("diff")
@click.argument("old")
@click.argument("new")
@json_option
def diff_command(old: str, new: str, as_json: bool) -> None:
    """Count the rows added, removed and changed from OLD to NEW (folders, or NAME@1.0.0)."""
    from usermirrorer.hub import releases

    columns = ("config", "split", "added", "removed", "changed", "same")
    _table(columns, releases.diff(old, new), as_json)


@release.command("verify")
@click.argument("target")
@click.argument("version", required=False)
def verify_command(target: str, version: str | None) -> None:
    """Prove every hash of a folder, or of VERSION of a repository, downloaded anew."""
    from usermirrorer.hub import releases

    manifest = releases.verify(target, version)
    click.echo(f"{target} {manifest['version']}: {len(manifest['files'])} files are as they should")


@release.command("list")
@click.argument("repo_id")
@click.option("--model", is_flag=True, help="REPO_ID is a model.")
@json_option
def list_command(repo_id: str, model: bool, as_json: bool) -> None:
    """List the versions of a repository, newest first."""
    from usermirrorer.hub import releases

    rows = releases.versions(repo_id, "model" if model else "dataset")
    _table(("version", "tag", "commit"), rows, as_json)


@release.command("collect")
@click.argument("repo_id")
@click.argument("version")
@click.option(
    "--model", "models", multiple=True, help="Model of this release, NAME or NAME@1.0.0; repeat."
)
@click.option("--leaderboard", default="", help="Space that shows a leaderboard of its own.")
@click.option("--pages", default="", help="Space of `usermirrorer reproduce all`.")
@click.option("--title", default="", help="Of the page.  [default: REPO_ID and VERSION]")
def collect_command(repo_id: str, version: str, models: tuple[str, ...], **options: str) -> None:
    """Put VERSION of REPO_ID, its models and its leaderboard on one page (a collection)."""
    from usermirrorer.hub import releases

    click.echo(releases.collect(repo_id, version, models, **options))


@click.group()
def hub() -> None:
    """Run a Hub of your own on this machine."""


@hub.command("serve")
@click.option("--root", type=_FOLDER, required=True, help="Folder of the Hub, made if missing.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=7861, show_default=True, help="Port to listen on.")
@click.option(
    "--name",
    "names",
    multiple=True,
    help="Name by which it is called, or whole address below which a proxy shows it.",
)
def serve_command(root: Path, host: str, port: int, names: tuple[str, ...]) -> None:
    """Serve until interrupted; clients find it with HF_ENDPOINT=http://HOST:PORT."""
    try:
        import uvicorn
    except ImportError:
        raise UserError("the local Hub needs more", fix="pip install 'usermirrorer[hub]'") from None
    from usermirrorer.hub.server.app import configuration
    from usermirrorer.hub.server.store import create_token, list_tokens

    listener = listen(host, port)
    with writing(root):
        server = uvicorn.Server(configuration(root, host, port, names))
    click.echo(f"HF_ENDPOINT=http://{in_address(host)}:{listener.getsockname()[1]}")
    if not is_loopback(host):
        click.echo(
            f"Warning: {host} can be reached from other machines. Whoever reaches it reads all "
            "public repositories, and tokens pass unencrypted: put a proxy with TLS before it.",
            err=True,
        )
    if not list_tokens(root):
        with writing(root):
            first = create_token(root, "usermirrorer", label="first")
        click.echo(f"HF_TOKEN={first}")
        click.echo("The token is shown this once; it may write as the user 'usermirrorer'.")
    server.run([listener])


def listen(host: str, port: int) -> socket.socket:
    """Take the port before anything else is done or shown.

    Raises:
        UserError: if it is in use, or is none of this machine.
    """
    import socket

    if not 0 <= port < 1 << 16:  # others would be taken as what they are beyond that
        raise UserError(f"{port} is no port", where="--port", fix="Give 0 to 65535.")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"cannot listen here: {getattr(error, 'strerror', None) or error}",
            where=f"{host}:{port}",
            fix="Choose another --port or --host.",
        ) from None
    return listener


def in_address(host: str) -> str:
    """Return a host as addresses have it."""
    return f"[{host}]" if ":" in host else host


_ROOT = click.option("--root", type=_FOLDER, required=True, help="Folder of the Hub.")


@hub.command("check")
@_ROOT
@json_option
@click.option("--every-byte", is_flag=True, help="Hash all content too; reads everything.")
def check_command(root: Path, as_json: bool, every_byte: bool) -> None:
    """Say where accounts, folders and content disagree; changes nothing. Exits with 1 if they do.

    What is not this Hub's own, and is left alone, is listed and does not count.
    """
    from usermirrorer.hub.server import folders, maintenance

    findings = maintenance.check(root, every_byte=every_byte)
    _show(findings, as_json)
    if any(finding.kind != folders.STRAY for finding in findings):
        if not as_json:
            click.echo(f"`usermirrorer hub repair --root {root}` mends what can be.", err=True)
        raise SystemExit(1)


@hub.command("repair")
@_ROOT
@json_option
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
def repair_command(root: Path, as_json: bool, dry_run: bool) -> None:
    """Rebuild the records from the folders; what is in doubt goes to quarantine/, nothing is lost.

    The server must be stopped. A folder that does not say whose it is becomes a private repository.
    """
    from usermirrorer.hub.server import maintenance

    with writing(root):
        findings = maintenance.repair(root, dry_run=dry_run)
    _show(findings, as_json)


@hub.command("backup")
@click.argument("target", type=_FOLDER, metavar="DEST")
@_ROOT
@json_option
def backup_command(target: Path, root: Path, as_json: bool) -> None:
    """Copy the Hub to DEST and prove the copy, while the server runs.

    DEST is then the folder of a Hub like any other: `hub serve --root DEST`. The next backup into
    the same DEST copies only what is new.
    """
    import json

    from usermirrorer.hub.server.backup import backup

    with writing(target):
        done = backup(root, target)
    if as_json:
        click.echo(json.dumps(done, indent=2))
        return
    for warning in done["warnings"]:
        click.echo(f"Warning: {warning}", err=True)
    click.echo(
        f"{target}: {done['repositories']} repositories with {done['references']} references and "
        f"{done['files']} files, {done['new_files']} of them new ({done['new_bytes']} bytes); "
        "all proved"
    )


def _show(findings: list[Finding], as_json: bool) -> None:
    import json

    if as_json:
        click.echo(json.dumps([finding.row() for finding in findings], indent=2))
        return
    for finding in findings:
        action = f": {finding.action}" if finding.action else ""
        click.echo(f"{finding.kind}: {finding.where} {finding.what}{action}")
    if not findings:
        click.echo("Everything is as it should be.")


@hub.group("token")
def token() -> None:
    """Make, list and revoke tokens."""


@token.command("create")
@_ROOT
@click.argument("user")
@click.option("--role", type=click.Choice(["write", "read"]), default="write", show_default=True)
@click.option("--label", default="token", help="What it is for.")
def token_create(root: Path, user: str, role: str, label: str) -> None:
    """Make a token for USER and show it once."""
    from usermirrorer.hub.server.store import create_token

    with writing(root):
        made = create_token(root, user, role, label)
    click.echo(made)


@token.command("list")
@_ROOT
@json_option
def token_list(root: Path, as_json: bool) -> None:
    """List tokens by id; they themselves are not stored."""
    from usermirrorer.hub.server.store import list_tokens

    _table(("id", "user", "label", "role"), list_tokens(root), as_json)


@token.command("revoke")
@_ROOT
@click.argument("token_id")
def token_revoke(root: Path, token_id: str) -> None:
    """Revoke the token with this id."""
    from usermirrorer.hub.server.store import revoke_token

    with writing(root):
        revoke_token(root, token_id)


def _table(columns: tuple[str, ...], rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        show_json([{column: row[column] for column in columns} for row in rows])
    else:
        show(columns, [[row[column] for column in columns] for row in rows])
