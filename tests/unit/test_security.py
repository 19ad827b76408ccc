"""What must never be in this repository: data that runs as code, secrets, open ports, tests that docs only claim."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.test_house_rules import ROOT, sources

RUNS_CODE = {
    "pickle",
    "cPickle",
    "marshal",
    "shelve",
    "dill",
    "cloudpickle",
    "joblib",
    "jsonpickle",
    "xmlrpc",
    "telnetlib",
}
CALLS_RUN_CODE = {
    "eval",
    "exec",
    "os.system",
    "os.popen",
    "yaml.load",
    "yaml.unsafe_load",
    "tempfile.mktemp",
    "pandas.read_pickle",
}


def offences(tree: ast.AST) -> Iterator[str]:
    """Imports and calls by which data could run as code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"line {node.lineno}: import {name}" for name in names if name.split(".")[0] in RUNS_CODE)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            is_bad = (
                name in CALLS_RUN_CODE
                or given.get("shell") == "True"
                or given.get("allow_pickle") == "True"
                or (name == "torch.load" and given.get("weights_only") != "True")
                or given.get("trust_remote_code") == "True"
                or given.get("verify") == "False"
            )
            if is_bad:
                yield f"line {node.lineno}: {ast.unparse(node)[:100]}"


# Code that lies in a ModelScope repository runs only where the caller has allowed it for that repository; nobody does.
ALLOWED = {"engine/models/modelscope_pipelines.py": "trust_remote_code=True"}


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_data_runs_as_code(path: Path) -> None:
    allowed = ALLOWED.get(path.relative_to(ROOT).as_posix())
    found = offences(ast.parse(path.read_text(encoding="utf-8")))
    assert [offence for offence in found if not (allowed and allowed in offence)] == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "eval(x)", "torch.load(p)", "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)", "subprocess.run(x, shell=True)", "yaml.load(x)", "os.system(x)",
        "M.from_pretrained(x, trust_remote_code=True)",
    ],
)  # fmt: skip
def test_the_search_for_such_code_finds_it(code: str) -> None:
    assert list(offences(ast.parse(code)))


SECRETS = {
    "Telegram token": r"\b\d{8,10}:[A-Za-z0-9_-]{35}\b",
    "Discord token": r"\b[MNO][A-Za-z0-9_-]{23,25}\.[A-Za-z0-9_-]{6}\.[A-Za-z0-9_-]{27,}\b",
    "AWS key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Hugging Face token": r"\bhf_[A-Za-z0-9]{30,}\b",
    "private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "password in an address": r"\b(?:postgresql\+asyncpg|redis|rediss|https?)://[^\s:/@${]+:(?!secret|password@)[^\s:/@${]{6,}@",
}


def found_in(text: str) -> list[str]:
    return [kind for kind, pattern in SECRETS.items() if re.search(pattern, text)]


def test_no_secret_is_in_a_tracked_file() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = {}
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if name and path.is_file() and path.stat().st_size < 2_000_000:
            kinds = found_in(path.read_bytes().decode("utf-8", "ignore"))
            found |= {name: kinds} if kinds else {}
    assert not found


def test_the_search_for_secrets_finds_them() -> None:
    # Put together here, so that the search does not find its own samples.
    letters = "AbCdEf0123456789AbCdEf0123456789AbCdEf0123456789"
    samples = {
        "Telegram token": "12345678" + "9:" + letters[:35],
        "Discord token": "M" + letters[:24] + "." + letters[:6] + "." + letters[:30],
        "AWS key": "AKIA" + "ABCDEFGH01234567",
        "GitHub token": "ghp" + "_" + letters[:36],
        "Hugging Face token": "hf" + "_" + letters[:34],
        "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
        "password in an address": "redis://bot:" + "correcthorse@host",
    }
    assert {kind for kind, sample in samples.items() if kind in found_in(sample)} == set(SECRETS)


def test_no_service_of_the_compose_file_is_open_to_the_network() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert not re.search(r"^\s*(ports|network_mode|privileged|expose):", text, re.MULTILINE)
    assert "docker.sock" not in text


@pytest.mark.parametrize("name", ["Dockerfile.bot", "Dockerfile.worker"])
def test_no_container_runs_as_root(name: str) -> None:
    users = re.findall(r"^USER (\S+)", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert users
    assert users[-1] not in ("root", "0")


def named_tests(text: str) -> list[tuple[str, str]]:
    """`tests/…/test_x.py::test_y` in a document."""
    return re.findall(r"(tests/[\w/]+\.py)::(\w+)", text)


def test_every_test_that_a_document_names_exists() -> None:
    missing = []
    for document in sorted((ROOT / "docs").rglob("*.md")):
        for path, name in named_tests(document.read_text(encoding="utf-8")):
            code = (ROOT / path).read_text(encoding="utf-8") if (ROOT / path).is_file() else ""
            if not re.search(rf"^(async )?def {name}\(", code, re.MULTILINE):
                missing.append(f"{document.name}: {path}::{name}")
    assert not missing


def test_every_threat_names_a_test() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    threats = re.split(r"^### ", text, flags=re.MULTILINE)[1:]
    assert len(threats) >= 10
    assert [threat.splitlines()[0] for threat in threats if not named_tests(threat)] == []
