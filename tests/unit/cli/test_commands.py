"""The commands without any server: help, usage, interruption, and that nothing heavy is loaded."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest

from registry.cli.main import EXIT_STATUS, cli
from registry.cli.output import Output, facts, fail, table
from registry.errors import NotNow
from tests.support.run_ulora import complains, ulora

COMMANDS = ["create", "list", "show", "measure", "promote", "rollback", "status", "history", "verify", "serve"]
COMMANDS += [
    "sign",
    "restore",
    "switch",
    "rollback-script",
    "store",
    "backbone",
    "fit",
    "reconcile",
    "doctor",
    "follow",
]
COMMANDS += ["demo", "dev", "policy", "data", "config", "diff", "approve", "canary", "test", "feedback", "guard"]
COMMANDS += ["predict", "apply", "report", "audit", "checklist", "dashboard", "init", "completion"]
WITHOUT_STORE = ("data", "demo", "dev", "fit", "config", "init", "completion")
ARGUMENTS = {
    "create": ["v1.0.0", "--from", "."],
    "show": ["v1.0.0"],
    "diff": ["v1.0.0", "v2.0.0"],
    "apply": ["channels.yaml"],
    "approve": ["v1.0.0"],
    "report": ["v1.0.0"],
    "audit": ["v1.0.0"],
    "checklist": ["v1.0.0"],
    "measure": ["v1.0.0"],
    "test": ["v1.0.0"],
    "restore": ["v1.0.0"],
    "switch": ["v1.0.0", "--root", "."],
    "sign": ["v1.0.0", "--key", "key.pem"],
    "promote": ["v1.0.0"],
    "verify": ["v1.0.0"],
    "store": ["init"],
    "backbone": ["list"],
    "policy": ["show"],
    "canary": ["abort"],
    "feedback": ["labels.csv"],
    "guard": ["run", "--once"],
    "predict": [".", "--out", "predicted"],
    "follow": ["production", "--into", "served"],
    "fit": ["--data", ".", "--backbone", ".", "--out", "bundle"],
}


def leaves() -> list[tuple[str, ...]]:
    """Every command, those of groups included."""
    context = click.Context(cli)
    found: list[tuple[str, ...]] = []
    for name in cli.list_commands(context):
        command = cli.get_command(context, name)
        assert command
        inner = command.list_commands(context) if isinstance(command, click.Group) else []
        found += [(name, each) for each in inner] or [(name,)]
    return found


def test_the_commands_are_these() -> None:
    assert sorted(cli.list_commands(click.Context(cli))) == sorted(COMMANDS)


@pytest.mark.parametrize("words", leaves(), ids=" ".join)
def test_every_command_has_help_with_an_example(words: tuple[str, ...]) -> None:
    shown = ulora(*words, "--help")
    assert shown.code == 0
    assert f"Usage: ulora {' '.join(words)}" in shown.out
    assert "Example" in shown.out
    assert f"ulora {' '.join(words)}" in shown.out.partition("Example")[2]
    assert "--json" in shown.out
    assert max(map(len, shown.out.splitlines())) <= 120


def test_the_help_has_sections_an_emergency_and_the_exit_status() -> None:
    shown = ulora("--help")
    assert shown.code == 0
    for part in ("Everyday:", "Care:", "Start:", 'ulora rollback --reason "error rate"', EXIT_STATUS.splitlines()[0]):
        assert part in shown.out
    assert all(name in shown.out for name in COMMANDS)


def test_the_version_is_the_distributions() -> None:
    assert re.fullmatch(r"ulora, version 0\.\S+( \(commit [0-9a-f]{12}\))?\n", ulora("--version").out)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["nonsense"], "nonsense"),
        (["promote"], "VERSION"),
        (["create", "v1.0.0"], "--from"),
        (["history", "--limit", "0"], "--limit"),
        (["serve", "--cors-origin", "app.example"], "is not an origin"),
        (["serve", "--cors-origin", "https://app.example/page"], "is not an origin"),
        (["rollback", "--expected", "x"], "--expected"),
        (["status", "--nonsense"], "--nonsense"),
        (["serve", "--port", "70000"], "--port"),
        (["status", "--model", "../x", "--store", "s3://bucket"], "not a model's name"),
        (["status", "--store", "ftp://x"], "is not a store"),
        (["history", "--store", "s3://bucket", "-c", "prod"], "not a channel's name"),
        (["show", "5.5.4", "--store", "s3://bucket"], "v5.5.4-dinov3"),
        (["verify", "--store", "s3://bucket"], "--all"),
        (["verify", "v1.0.0", "--all", "--store", "s3://bucket"], "--all"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_usage_is_one_line_and_exit_2(words: list[str], says: str) -> None:
    complains(ulora(*words), 2, says)
    assert ulora(*words, "--json").error["hint"]


def test_no_command_at_all_shows_the_help_and_is_wrong_usage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ULORA_STORE", "s3://bucket/x")
    shown = ulora()
    assert shown.code == 2
    assert "Usage: ulora" in shown.out + shown.err
    assert not (shown.out + shown.err).startswith("error")


def test_without_a_store_no_command_shows_how_to_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = ulora()
    assert (shown.code, shown.out) == (2, "")
    assert [line.split()[1] for line in shown.err.splitlines() if line.startswith("  ulora ")] == [
        "demo",
        "dev",
        "init",
    ]
    assert len(shown.err.splitlines()) <= 6
    assert "Usage: ulora guard" in ulora("guard").err, "a group without its command still shows its help"
    (tmp_path / "ulora.toml").write_text("a mistake")
    assert "Usage: ulora" in ulora().err


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in WITHOUT_STORE])
def test_without_a_store_every_command_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [name, *ARGUMENTS.get(name, [])]
    complains(ulora(*words), 2, "no store is set", "ULORA_STORE")
    assert ulora(*words, "--json").error["error"] == "BadSetting"


def test_a_stack_that_is_here_is_named_where_no_store_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ulora-data").mkdir()
    (tmp_path / "ulora-data/env.sh").touch()
    complains(ulora("status"), 2, "no store is set", "source ulora-data/env.sh")


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"a":NaN}', '{"a":' + "[" * 3000 + "]" * 3000 + "}"], ids=["list", "cut", "NaN", "deep"]
)
def test_changes_that_are_no_json_object_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "changes.json").write_text(text)
    done = ulora(
        "create", "v1.0.0", "--from", tmp_path, "--changes", tmp_path / "changes.json", "--store", "s3://bucket"
    )
    complains(done, 2, "changes.json")


def test_a_reader_that_went_away_is_no_failure() -> None:
    # As `ulora --help | head -1`, but with nobody at the other end from the start.
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "registry", "--help"], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_interrupted_it_exits_with_130(tmp_path: Path) -> None:
    # A server that accepts and never answers: the command waits for it until Ctrl-C.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = os.environ | {
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{silent.getsockname()[1]}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "ULORA_CACHE": str(tmp_path),
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "registry", "history", "--store", "s3://bucket/x"],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        silent.settimeout(300)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=300)
    said, hint = err.splitlines()
    assert (process.returncode, out, said) == (130, "", "interrupted")
    assert "run the same command again" in hint


def test_a_rollback_loads_neither_mlflow_nor_torch(dead_address: str) -> None:
    code = (
        "import sys\nfrom registry.cli.main import main\n"
        "try: main(['rollback'])\nexcept SystemExit as end: assert end.code == 7, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    env = os.environ | {
        "ULORA_STORE": "s3://bucket/x",
        "AWS_ENDPOINT_URL_S3": dead_address,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert "boto3" in loaded
    assert not loaded & {"mlflow", "torch", "transformers", "numpy", "fastapi", "requests"}


def test_the_module_and_the_console_script_are_the_same_program() -> None:
    script = Path(sys.executable).with_name("ulora")
    shown = [
        subprocess.run([*command, "--version"], capture_output=True, text=True, check=True).stdout
        for command in ([sys.executable, "-m", "registry"], [str(script)])
    ]
    assert shown[0] == shown[1]


def test_a_table_is_aligned_and_its_long_cells_are_cut() -> None:
    text = table(("A", "B", "C"), [("x" * 70, None, "y" * 70), ("1", ("a", "b"), "line\nbreak")])
    lines = text.splitlines()
    assert [line.index(part) for line, part in zip(lines, ("B", "-", "a, b"), strict=True)] == [62] * 3
    assert lines[1].endswith("y" * 70)
    assert lines[2].endswith("line break")
    assert facts({"a": 1, "empty": "", "long name": "x"}) == "a          1\nlong name  x"


def test_what_others_wrote_moves_no_cursor_and_forges_no_line(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "anna\x1b[2J\nerror: forged\x9b\u202e"
    Output(as_json=False).note(evil)
    Output(as_json=False).say(facts({"withdrawn": (evil,), "who": evil}))
    with pytest.raises(SystemExit):
        fail(NotNow(evil, hint=evil), as_json=False)
    shown = capsys.readouterr()
    assert [line.split(":")[0] for line in shown.err.splitlines()] == ["note", "error", "hint"]
    assert [line.split()[0] for line in shown.out.splitlines()] == ["withdrawn", "who"]
    assert not set("\x1b\x9b\u202e") & set(shown.out + shown.err)


def test_the_exit_code_survives_where_nobody_can_read_the_error() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "registry", "promote", "no-version", "--store", "s3://bucket/x"],
            stdout=full, stderr=full, check=False,
        )  # fmt: skip
    assert done.returncode == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["promot", "v1.0.0"], "Did you mean promote?"),
        (["store", "ini"], "Did you mean 'init'?"),
        (["rollback", "-c", "prodcution"], "did you mean production?"),
        (["status", "--jsn"], "--json"),
    ],
    ids=" ".join,
)
def test_a_misspelt_word_is_told_the_near_one(words: list[str], says: str) -> None:
    complains(ulora(*words), 2, says)


def test_a_taken_port_is_found_before_the_store_is_asked() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = ulora("serve", "--port", taken.getsockname()[1], "--store", "s3://bucket/x")
    complains(done, 2, "can't listen on 127.0.0.1", "--port")


def test_cheap_checks_load_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom registry.cli.main import main\n"
        "try: main(sys.argv[1:])\nexcept SystemExit as end: assert end.code == 2, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for words in (
            ["fit", "--data", "nosuch", "--backbone", "x", "--out", str(tmp_path / "out")],
            ["measure", "v1.0.0", "--data", "nosuch"],
            ["create", "v1.0.0", "--from", "nosuch"],
            ["serve", "--port", port],
            ["demo", "--data", "nosuch"],
        ):
            done = subprocess.run(
                [sys.executable, "-c", code, *words], env=os.environ | {"ULORA_STORE": "s3://bucket/x"},
                capture_output=True, text=True, check=False, cwd=tmp_path,
            )  # fmt: skip
            assert done.returncode == 0, (words, done.stderr)
            assert not set(done.stdout.split()) & {"mlflow", "torch", "transformers", "fastapi"}, words
